"""The public key of a certificate, octet for octet as it stands there.

Gives    public_key_of
Takes    a certificate in DER
Raises   ValueError for octets that are no certificate
Follows  RFC 5280 §4.1; X.690 §8.1. A TLSA record with selector 1 is about these very octets, so
         they are cut out and never written anew
"""

from __future__ import annotations

_SEQUENCE = 0x30
_VERSION = 0xA0
# serialNumber, signature, issuer, validity, subject
_BEFORE_THE_KEY = 5


def public_key_of(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate."""
    start, end = _inside(certificate, 0, _SEQUENCE)
    start, end = _inside(certificate[:end], start, _SEQUENCE)
    inner = certificate[:end]
    if start < end and inner[start] == _VERSION:
        start = _end(inner, start)
    for _ in range(_BEFORE_THE_KEY):
        start = _end(inner, start)
    _inside(inner, start, _SEQUENCE)
    return inner[start : _end(inner, start)]


def _inside(octets: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the content of a value with this tag begins and ends."""
    if at >= len(octets) or octets[at] != tag:
        raise ValueError("these octets are no certificate")
    return _bounds(octets, at)


def _end(octets: bytes, at: int) -> int:
    return _bounds(octets, at)[1]


def _bounds(octets: bytes, at: int) -> tuple[int, int]:
    if at + 2 > len(octets):
        raise ValueError("a certificate is cut short")
    length, start = octets[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or start + count > len(octets):
            raise ValueError("a certificate has a length that makes no sense")
        length = int.from_bytes(octets[start : start + count], "big")
        start += count
    if start + length > len(octets):
        raise ValueError("a certificate is cut short")
    return start, start + length

"""TLSA records: which of them count for SMTP, and what they match.

Gives    Tlsa, TlsaUsage, TlsaAnswer, TxtAnswer; usable, strongest, matches
Takes    records as DNS has them; a certificate and its public key, both in DER
Raises   nothing
Follows  RFC 6698 §2.1; RFC 7672 §3.1 (DANE-TA and DANE-EE alone); RFC 7671 §9 (digest agility)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from mailcore.routing.site import DnsStatus

_DIGEST_BYTES = {1: 32, 2: 64}


class TlsaUsage(IntEnum):
    """The certificate usages that count for SMTP; PKIX-TA(0) and PKIX-EE(1) do not."""

    DANE_TA = 2
    DANE_EE = 3


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One record. Selector 0 is the certificate, 1 its public key; matching 0 is the thing itself,
    1 its SHA-256, 2 its SHA-512."""

    usage: int
    selector: int
    matching: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TlsaAnswer:
    """The records of one service at `base`, a host's name. They count only if they are secure."""

    status: DnsStatus
    records: tuple[Tlsa, ...] = ()
    base: str = ""
    is_secure: bool = False
    ttl_s: float = 60.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TxtAnswer:
    """The texts of a name, each put together from its strings."""

    status: DnsStatus
    texts: tuple[str, ...] = ()
    ttl_s: float = 60.0
    detail: str = ""


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Return the records a client may go by."""
    return tuple(record for record in records if _is_usable(record))


def _is_usable(record: Tlsa) -> bool:
    if record.usage not in (TlsaUsage.DANE_TA, TlsaUsage.DANE_EE) or record.selector not in (0, 1):
        return False
    if record.matching == 0:
        return bool(record.data)
    return len(record.data) == _DIGEST_BYTES.get(record.matching, -1)


def strongest(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Leave out digests that have a stronger one beside them for the same usage and selector, so
    that nobody can go by the weaker. What is given in full stays."""
    found = tuple(records)
    best: dict[tuple[int, int], int] = {}
    for record in found:
        key = (record.usage, record.selector)
        best[key] = max(best.get(key, 0), record.matching)
    return tuple(
        record for record in found if record.matching in (0, best[record.usage, record.selector])
    )


def matches(record: Tlsa, *, certificate: bytes, public_key: bytes) -> bool:
    """Whether a record means this certificate (DER) or its public key (DER)."""
    meant = certificate if record.selector == 0 else public_key
    if record.matching == 1:
        meant = hashlib.sha256(meant).digest()
    elif record.matching == 2:
        meant = hashlib.sha512(meant).digest()
    return meant == record.data

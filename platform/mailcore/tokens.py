"""Message tokens: the signed key to a recipient in return paths, headers and hooks.

A message that goes to several recipients in one transaction has one token for all of them.

Gives    MessageToken, sign, read, return_path_local_part
Takes    a key ring: key id (0-31) -> secret bytes; signing uses the highest id
Raises   TokenError for what is damaged, forged, or signed by a key that is gone
Layout   1 byte version (3 bits) and key id (5 bits) · 16 bytes message id · 2 bytes recipient
         number · 8 bytes HMAC-SHA-256, cut; in lower-case base32 without padding: 44 characters,
         so that a local part of it stays far below 64 octets and survives case folding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from mailcore.errors import TokenError

_VERSION = 1
_MAC_BYTES = 8
_TOKEN_BYTES = 1 + 16 + 2 + _MAC_BYTES
RETURN_PATH_PREFIX = "b-"
# The recipient number that stands for all of a message's recipients; no recipient has it.
ALL_RECIPIENTS = 0xFFFF


@dataclass(frozen=True, slots=True)
class MessageToken:
    """What a token names: a message and one of its recipients, or all of them."""

    message_id: UUID
    recipient_no: int

    @property
    def is_of_all(self) -> bool:
        """Whether it does not say which of the message's recipients it is about."""
        return self.recipient_no == ALL_RECIPIENTS


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, b"postfleet message token\0" + body, hashlib.sha256).digest()[
        :_MAC_BYTES
    ]


def sign(token: MessageToken, *, ring: Mapping[int, bytes]) -> str:
    """Return the token as text, signed with the newest key of the ring."""
    if not ring:
        raise TokenError("no key to sign message tokens with")
    if not 0 <= token.recipient_no <= 0xFFFF:
        raise TokenError("a message token carries recipient numbers up to 65535")
    key_id = max(ring)
    body = bytes([_VERSION << 5 | key_id]) + token.message_id.bytes
    body += token.recipient_no.to_bytes(2, "big")
    return base64.b32encode(body + _mac(ring[key_id], body)).decode().rstrip("=").lower()


def read(text: str, *, ring: Mapping[int, bytes]) -> MessageToken:
    """Return what a token names, or raise TokenError."""
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError) as exc:
        raise TokenError("the message token is not base32") from exc
    if len(raw) != _TOKEN_BYTES:
        raise TokenError("the message token has a wrong length")
    if raw[0] >> 5 != _VERSION:
        raise TokenError(f"message tokens of version {raw[0] >> 5} are not read")
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    secret = ring.get(raw[0] & 0x1F)
    if secret is None:
        raise TokenError("the message token is signed by a key that is no longer kept")
    if not hmac.compare_digest(_mac(secret, body), mac):
        raise TokenError("the message token's signature does not verify")
    return MessageToken(UUID(bytes=body[1:17]), int.from_bytes(body[17:19], "big"))


def return_path_local_part(token: MessageToken, *, ring: Mapping[int, bytes]) -> str:
    """Return the local part of a signed return path, at most 46 octets."""
    return RETURN_PATH_PREFIX + sign(token, ring=ring)


def find_in_local_part(local_part: str, *, ring: Mapping[int, bytes]) -> MessageToken:
    """Read the token of a return path's local part, or raise TokenError."""
    if not local_part.lower().startswith(RETURN_PATH_PREFIX):
        raise TokenError("the local part is no signed return path")
    return read(local_part[len(RETURN_PATH_PREFIX) :], ring=ring)

"""DKIM signatures: canonical form, what is signed, and the header fields that say so.

Gives    SigningKey, parse_private_key, sign; generate and public_record for who keeps the keys
Takes    RFC 5322 content with CRLF line ends; keys parsed once; the time
Raises   DkimKeyError for a key that cannot be used
Follows  RFC 6376 (relaxed/relaxed, no `l=`), RFC 8301 (RSA of 1024 bits at least, SHA-256),
         RFC 8463 (Ed25519), RFC 8058 §4 (List-Unsubscribe-Post is signed), RFC 9477 §3.1 (CFBL)

Every field of `SIGNED_FIELDS`, and of what the caller adds to them, is signed once more often than
it occurs, so that nobody can add another one (RFC 6376 §8.15). The body is hashed once for all
keys; a body with no runs of white space is hashed where it lies.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from mailcore.errors import PostfleetError

SIGNED_FIELDS = (
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "cc",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-id",
    "in-reply-to",
    "references",
    "sender",
    "feedback-id",
    "cfbl-address",
    "cfbl-feedback-id",
)
MIN_RSA_BITS = 1024
RSA_BITS = 2048
_WIDTH = 76
_PADDING = padding.PKCS1v15()
_SHA256 = hashes.SHA256()

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


class DkimKeyError(PostfleetError, ValueError):
    """A private key that cannot sign; the message says why."""


class DkimAlgorithm(Enum):
    """The `a=` tag of a signature."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key and where its public half is published: `selector._domainkey.domain`."""

    domain: str
    selector: str
    private: PrivateKey

    @property
    def algorithm(self) -> DkimAlgorithm:
        """The algorithm this key signs with."""
        if isinstance(self.private, RSAPrivateKey):
            return DkimAlgorithm.RSA_SHA256
        return DkimAlgorithm.ED25519_SHA256


# ── keys ──────────────────────────────────────────────────────────────────────────────────────


def parse_private_key(pem: bytes) -> PrivateKey:
    """Return the private key of a PEM (PKCS#8 or PKCS#1, not encrypted)."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What the library says may quote the key: it is not repeated.
        reason = "the PEM holds no private key that can be read without password"
        raise DkimKeyError(reason) from None
    if isinstance(key, RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise DkimKeyError(f"an RSA key of {key.key_size} bits is refused by verifiers")
        return key
    if isinstance(key, Ed25519PrivateKey):
        return key
    raise DkimKeyError("a DKIM key is RSA or Ed25519")


def generate(algorithm: DkimAlgorithm) -> bytes:
    """Return the PEM (PKCS#8) of a new private key."""
    key: PrivateKey
    if algorithm is DkimAlgorithm.RSA_SHA256:
        key = generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    else:
        key = Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_record(pem: bytes) -> str:
    """Return the value of the DNS TXT record that publishes a private key's public half."""
    key = parse_private_key(pem)
    if isinstance(key, RSAPrivateKey):
        kind = "rsa"
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    else:
        kind = "ed25519"
        public = key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
    return f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"


# ── canonical form ────────────────────────────────────────────────────────────────────────────


def _single_spaced(text: bytes) -> bytes:
    """Make each run of white space one space. Halving the runs beats a regex by ten times."""
    text = text.replace(b"\t", b" ")
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


def _relaxed_field(name: bytes, value: bytes) -> bytes:
    """RFC 6376 §3.4.2, without its line end; `name` is in lower case already."""
    if b"\r\n" in value:
        value = value.replace(b"\r\n", b"")
    if b"  " in value or b"\t" in value:
        value = _single_spaced(value)
    return name + b":" + value.strip(b" \t")


def _body_hash(content: bytes, start: int) -> bytes:
    """SHA-256 of the relaxed body that begins at `start` (RFC 6376 §3.4.4)."""
    if not content.endswith(b"\r\n") and len(content) > start:
        content += b"\r\n"
    if (
        content.find(b"  ", start) >= 0
        or content.find(b" \r\n", start) >= 0
        or content.find(b"\t", start) >= 0
    ):
        content = _single_spaced(content[start:]).replace(b" \r\n", b"\r\n")
        start = 0
    end = len(content)
    while end - start >= 4 and content.endswith(b"\r\n\r\n", start, end):
        end -= 2
    if end - start == 2 and content.endswith(b"\r\n", start, end):
        end = start
    return hashlib.sha256(memoryview(content)[start:end]).digest()


def _fields(head: bytes, signed: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """Return the raw values of the fields we sign, in order, by lower-case name."""
    found: dict[bytes, list[bytes]] = {}
    values: list[bytes] | None = None
    for line in head.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            if values:
                values[-1] += b"\r\n" + line
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t").lower()
        values = found.setdefault(name, []) if colon and name in signed else None
        if values is not None:
            values.append(value)
    return found


def _signed_fields(head: bytes, also: Sequence[str]) -> tuple[list[str], bytes]:
    """Return the names for `h=` and the canonical fields they stand for."""
    signed = dict.fromkeys((*SIGNED_FIELDS, *(name.lower() for name in also)))
    found = _fields(head, frozenset(name.encode() for name in signed))
    names: list[str] = []
    canonical: list[bytes] = []
    for name in signed:
        raw_name = name.encode()
        # A verifier takes fields of one name from the bottom up (RFC 6376 §5.4.2).
        for value in reversed(found.get(raw_name, ())):
            names.append(name)
            canonical.append(_relaxed_field(raw_name, value) + b"\r\n")
        names.append(name)
    return names, b"".join(canonical)


# ── the signature field ───────────────────────────────────────────────────────────────────────


def _folded_names(names: Sequence[str]) -> str:
    lines, line = [], " h="
    for name in names:
        if len(line) + len(name) + 1 > _WIDTH:
            lines.append(line)
            line = "  "
        line += name + ":"
    lines.append(line[:-1])
    return "\r\n".join(lines)


def _folded_signature(signature: bytes) -> str:
    text = base64.b64encode(signature).decode()
    return "\r\n  ".join(text[at : at + _WIDTH - 4] for at in range(0, len(text), _WIDTH - 4))


def _sign(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, RSAPrivateKey):
        return key.sign(data, _PADDING, _SHA256)
    # RFC 8463 §3: Ed25519 signs the SHA-256 hash, not the data.
    return key.sign(hashlib.sha256(data).digest())


def sign(
    content: bytes, keys: Sequence[SigningKey], *, now: int, also: Sequence[str] = ()
) -> bytes:
    """Return the DKIM-Signature fields, one per key, to put in front of `content`.

    `now` is in seconds since 1970; `also` names more fields to sign. No keys give no bytes.
    """
    if not keys:
        return b""
    separator = content.find(b"\r\n\r\n")
    if content.startswith(b"\r\n"):
        head_end, body_start = 0, 2
    elif separator < 0:
        head_end = body_start = len(content)
    else:
        head_end, body_start = separator, separator + 4
    names, signed = _signed_fields(content[:head_end], also)
    h_tag = _folded_names(names)
    bh_tag = base64.b64encode(_body_hash(content, body_start)).decode()
    fields: list[bytes] = []
    for key in keys:
        value = (
            f" v=1; a={key.algorithm.value}; c=relaxed/relaxed; t={now};\r\n"
            f" d={key.domain};\r\n s={key.selector};\r\n{h_tag};\r\n bh={bh_tag};\r\n b="
        )
        data = signed + _relaxed_field(b"dkim-signature", value.encode())
        text = f"DKIM-Signature:{value}{_folded_signature(_sign(key.private, data))}\r\n"
        fields.append(text.encode())
    return b"".join(fields)

"""Keys: draw, read, store. The private half goes to the vault and is never shown again.

Gives    draw_private_key, read_private_key, store_key, replace_key, delete_key
Raises   ValidationError naming the field
Follows  RFC 6376 §3.3 (RSA of 1024 to 4096 bits; we take 2048 up), RFC 8463 (Ed25519)

A replaced key lies under a new reference: workers keep keys by reference, and an older revision of
the policy must still find the one it names. All go when the key is deleted.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from control.access import Actor
from control.audit.changes import policy_change
from control.audit.choices import Action
from control.mta.choices import KeyAlgorithm, KeyType
from control.mta.models import Key
from control.secrets import forget_secrets, put_secret

SMALLEST_RSA_BITS = 2048
LARGEST_RSA_BITS = 4096


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key as it is stored: PKCS #8 in PEM, and its public half as DNS carries it."""

    algorithm: str
    public_key: str
    pem: bytes = field(repr=False)


def draw_private_key(algorithm: str) -> PrivateKey:
    """Draw a new key."""
    if algorithm == KeyAlgorithm.ED25519:
        return _stored_form(ed25519.Ed25519PrivateKey.generate())
    return _stored_form(rsa.generate_private_key(65537, SMALLEST_RSA_BITS))


def read_private_key(text: str) -> PrivateKey:
    """Read a key that was pasted, in PEM or OpenSSH form, without passphrase."""
    data = text.strip().encode() + b"\n"
    try:
        if b"BEGIN OPENSSH" in data:
            key: object = serialization.load_ssh_private_key(data, password=None)
        else:
            key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise ValidationError({"private_key": _("The key is protected by a passphrase.")}) from None
    except (ValueError, UnsupportedAlgorithm):
        # What the library says about a key may quote it.
        raise ValidationError(
            {"private_key": _("This is no private key in PEM or OpenSSH form.")}
        ) from None
    if isinstance(key, rsa.RSAPrivateKey):
        if not SMALLEST_RSA_BITS <= key.key_size <= LARGEST_RSA_BITS:
            raise ValidationError({"private_key": _("An RSA key must have 2048 to 4096 bits.")})
        return _stored_form(key)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _stored_form(key)
    raise ValidationError({"private_key": _("Only RSA and Ed25519 keys are used.")})


def store_key(key: Key, private: PrivateKey, *, actor: Actor) -> Key:
    """Store a new key with its secret."""
    _fill(key, private, base=f"key:{uuid.uuid4().hex}")
    key.full_clean()
    with policy_change(actor) as change:
        key.save(force_insert=True)
        change.created(key)
        put_secret(key.secret_ref, private.pem)
    return key


def replace_key(key: Key, private: PrivateKey, *, actor: Actor) -> None:
    """Put another secret under a stored key; DNS must then publish its public half."""
    with policy_change(actor) as change:
        change.touch(key)
        _fill(key, private, base=_base(key))
        key.save(update_fields=["secret_ref", "algorithm", "public_key"])
        put_secret(key.secret_ref, private.pem)
        change.note(Action.REPLACED, key, after={"public_key": key.public_key})


def delete_key(key: Key, *, actor: Actor) -> None:
    """Delete a key and every generation of its secret."""
    with policy_change(actor) as change:
        change.touch(key)
        forget_secrets(_base(key))
        key.delete()


def dns_record(key: Key) -> str:
    """Return the TXT record that publishes a DKIM key (RFC 6376 §3.6.1)."""
    if key.type != KeyType.DKIM:
        return ""
    kind = "ed25519" if key.algorithm == KeyAlgorithm.ED25519 else "rsa"
    return f"v=DKIM1; k={kind}; p={key.public_key}"


def _fill(key: Key, private: PrivateKey, *, base: str) -> None:
    key.algorithm = private.algorithm
    key.public_key = private.public_key
    key.secret_ref = f"{base}:{uuid.uuid4().hex[:8]}"


def _base(key: Key) -> str:
    return key.secret_ref.rpartition(":")[0]


def _stored_form(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> PrivateKey:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        return PrivateKey(KeyAlgorithm.ED25519, base64.b64encode(raw).decode(), pem)
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PrivateKey(KeyAlgorithm.RSA, base64.b64encode(der).decode(), pem)

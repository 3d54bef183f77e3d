"""Secrets, as the control plane handles them: in the transaction that changes their row.

Gives    put_secret, get_secret, has_secret, forget_secrets, rotate_secrets
Raises   VaultError; LookupError for a secret that is gone; ImproperlyConfigured without SECRET_KEYS
"""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from mailio import vault
from mailio.vault import KeyRing


def key_ring() -> KeyRing:
    """Return the ring of this process."""
    if settings.POSTFLEET is None:
        raise ImproperlyConfigured("SECRET_KEYS is not set")
    return KeyRing(settings.POSTFLEET.secret_keys)


def put_secret(ref: str, secret: bytes) -> None:
    """Seal a secret under its reference."""
    with connection.cursor() as cursor:
        vault.write_secret(cursor, key_ring(), ref, secret)


def get_secret(ref: str) -> bytes:
    """Return a secret in clear: never log it, never show it."""
    with connection.cursor() as cursor:
        return vault.read_secret(cursor, key_ring(), ref)


def has_secret(ref: str) -> bool:
    """Whether something lies under this reference."""
    with connection.cursor() as cursor:
        return vault.has_secret(cursor, ref)


def forget_secrets(prefix: str) -> None:
    """Delete what lies under a reference and its generations (`prefix:1`, `prefix:2`)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM vault_secret WHERE ref = %s OR starts_with(ref, %s)",
            (prefix, f"{prefix}:"),
        )


def rotate_secrets() -> int:
    """Seal everything with the newest key; return how many secrets an older one had sealed."""
    with connection.cursor() as cursor:
        return vault.rotate(cursor, key_ring())

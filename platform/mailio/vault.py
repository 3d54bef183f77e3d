"""Secrets, sealed by a key ring: the only way in and out of `vault_secret`.

Gives    KeyRing (seal, open, key_id_of); write_secret, read_secret, has_secret, delete_secret,
         rotate on any DB-API cursor; token_ring; PgVault, the workers' `mailcore.ports.Vault`
Takes    Settings.secret_keys: key id -> 32 bytes; the highest id seals
Raises   VaultError for a value that no key of the ring opens; LookupError for a secret that is
         gone; StoreUnavailable when PostgreSQL cannot be asked
Follows  NIST SP 800-38D (AES-256-GCM, 96-bit random nonce), RFC 5869 (a key of its own per use)

A value is `v1:<key id>:<base64 of nonce and ciphertext>`. The secret's reference is associated
data, so a value moved to another row does not open. Nothing here prints or logs a secret.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import psycopg2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mailcore.errors import PostfleetError
from mailcore.ports import StoreUnavailable

FORMAT = "v1"
NONCE_BYTES = 12
CACHE_S = 60.0
CONNECT_TIMEOUT_S = 5


class VaultError(PostfleetError):
    """A sealed value that cannot be opened with this key ring."""


class Cursor(Protocol):
    """What is asked of a DB-API cursor, psycopg2's or Django's."""

    def execute(self, query: str, params: Any = ..., /) -> Any: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> Any: ...


class KeyRing:
    """The keys that seal and open. Its repr shows key numbers alone."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        if not keys:
            raise VaultError("the key ring holds no key")
        self._ciphers = {number: AESGCM(_derive(key)) for number, key in keys.items()}
        self.newest = max(keys)

    def __repr__(self) -> str:
        return f"KeyRing({sorted(self._ciphers)})"

    def seal(self, ref: str, secret: bytes) -> str:
        """Return the stored form of a secret that will lie under `ref`."""
        nonce = os.urandom(NONCE_BYTES)
        body = nonce + self._ciphers[self.newest].encrypt(nonce, secret, ref.encode())
        return f"{FORMAT}:{self.newest}:{base64.b64encode(body).decode()}"

    def open(self, ref: str, value: str) -> bytes:
        """Return the secret of a stored value."""
        number, body = _parse(ref, value)
        cipher = self._ciphers.get(number)
        if cipher is None:
            raise VaultError(f"secret {ref}: sealed with key {number}, which SECRET_KEYS lacks")
        try:
            return cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], ref.encode())
        except InvalidTag:
            raise VaultError(
                f"secret {ref}: key {number} does not open it; it was altered, moved, or sealed "
                "with another key of the same number"
            ) from None


def key_id_of(ref: str, value: str) -> int:
    """Return the number of the key that sealed a value."""
    return _parse(ref, value)[0]


def _parse(ref: str, value: str) -> tuple[int, bytes]:
    try:
        form, number, text = value.split(":", 2)
        body = base64.b64decode(text, validate=True)
        if form != FORMAT or len(body) <= NONCE_BYTES:
            raise ValueError(form)
        return int(number), body
    except (ValueError, binascii.Error):
        raise VaultError(f"secret {ref}: the stored value has no form known here") from None


def _derive(key: bytes) -> bytes:
    return derive_key(key, purpose="vault")


def derive_key(key: bytes, *, purpose: str) -> bytes:
    """Return 32 bytes for one purpose, so that no two uses share a key."""
    info = f"postfleet {purpose}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def token_ring(keys: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return the ring that signs message tokens: same numbers, keys of their own."""
    return {number: derive_key(key, purpose="message token") for number, key in keys.items()}


# --- on any cursor --------------------------------------------------------------------------------


def write_secret(cursor: Cursor, ring: KeyRing, ref: str, secret: bytes) -> None:
    """Store a secret under its reference, in the caller's transaction."""
    cursor.execute(
        "INSERT INTO vault_secret (ref, value) VALUES (%s, %s) ON CONFLICT (ref) DO UPDATE"
        " SET value = excluded.value, updated_at = statement_timestamp()",
        (ref, ring.seal(ref, secret)),
    )


def read_secret(cursor: Cursor, ring: KeyRing, ref: str) -> bytes:
    """Return a secret in clear, or raise LookupError."""
    cursor.execute("SELECT value FROM vault_secret WHERE ref = %s", (ref,))
    row = cursor.fetchone()
    if row is None:
        raise LookupError(f"there is no secret {ref}")
    return ring.open(ref, row[0])


def has_secret(cursor: Cursor, ref: str) -> bool:
    """Whether there is a secret of this reference."""
    cursor.execute("SELECT 1 FROM vault_secret WHERE ref = %s", (ref,))
    return cursor.fetchone() is not None


def delete_secret(cursor: Cursor, ref: str) -> None:
    """Forget a secret."""
    cursor.execute("DELETE FROM vault_secret WHERE ref = %s", (ref,))


def rotate(cursor: Cursor, ring: KeyRing) -> int:
    """Seal with the newest key whatever an older one sealed; return how many values changed."""
    cursor.execute("SELECT ref, value FROM vault_secret ORDER BY ref FOR UPDATE")
    changed = 0
    for ref, value in cursor.fetchall():
        if key_id_of(ref, value) != ring.newest:
            write_secret(cursor, ring, ref, ring.open(ref, value))
            changed += 1
    return changed


def sealed_otherwise(cursor: Cursor, ring: KeyRing) -> list[str]:
    """Return why each value does not open that this ring does not open."""
    cursor.execute("SELECT to_regclass('vault_secret') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return []
    cursor.execute("SELECT ref, value FROM vault_secret ORDER BY ref")
    faults = []
    for ref, value in cursor.fetchall():
        try:
            ring.open(ref, value)
        except VaultError as exc:
            faults.append(str(exc))
    return faults


# --- for workers ----------------------------------------------------------------------------------


class PgVault:
    """`mailcore.ports.Vault`: asks PostgreSQL on a thread of its own, keeps answers a minute.

    A secret that was replaced is seen within `cache_s`; with PostgreSQL away, what was read
    before stays good, since mail must still be signed.
    """

    def __init__(self, dsn: str, keys: Mapping[int, bytes], *, cache_s: float = CACHE_S) -> None:
        self._dsn = dsn
        self._ring = KeyRing(keys)
        self._cache_s = cache_s
        self._cache: dict[str, tuple[float, bytes]] = {}
        self._lock = threading.Lock()
        self._connection: Any = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vault")

    def __repr__(self) -> str:
        return f"PgVault({self._ring!r})"

    async def open(self, secret_ref: str) -> bytes:
        """Return the secret in clear."""
        cached = self._cache.get(secret_ref)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.fetch, secret_ref)

    def fetch(self, secret_ref: str) -> bytes:
        """Return the secret in clear; blocks."""
        with self._lock:
            try:
                secret = self._read(secret_ref)
            except psycopg2.Error as exc:
                self._drop_connection()
                stale = self._cache.get(secret_ref)
                if stale is not None:
                    return stale[1]
                raise StoreUnavailable("postgresql", type(exc).__name__) from exc
            except LookupError:
                self._cache.pop(secret_ref, None)
                raise
            self._cache[secret_ref] = (time.monotonic() + self._cache_s, secret)
            return secret

    def close(self) -> None:
        """Let go of the connection, the thread and what was read."""
        self._pool.shutdown(wait=True)
        with self._lock:
            self._drop_connection()
            self._cache.clear()

    def _read(self, ref: str) -> bytes:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(self._dsn, connect_timeout=CONNECT_TIMEOUT_S)
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            return read_secret(cursor, self._ring, ref)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

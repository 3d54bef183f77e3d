"""Secrets: sealed, bound to their place, rotated, read by workers."""

import asyncio
from collections.abc import Iterator

import psycopg2
import pytest

from mailcore.ports import StoreUnavailable
from mailio import vault
from mailio.snapshots import schema_sql
from mailio.vault import KeyRing, PgVault, VaultError
from tests.support.stack import drop_postgres, postgres_url

KEYS = {1: b"a" * 32, 2: b"b" * 32}
SECRET = b"the secret itself"


@pytest.fixture
def dsn() -> Iterator[str]:
    url = postgres_url()
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(schema_sql())
    connection.close()
    yield url
    drop_postgres(url)


def put(dsn: str, ref: str, secret: bytes, keys: dict[int, bytes]) -> None:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        vault.write_secret(cursor, KeyRing(keys), ref, secret)
    connection.close()


def test_what_is_sealed_opens_and_shows_nothing() -> None:
    ring = KeyRing(KEYS)
    value = ring.seal("key:1", SECRET)
    assert ring.open("key:1", value) == SECRET
    assert value.startswith("v1:2:")
    assert SECRET.decode() not in value + repr(ring)
    assert ring.seal("key:1", SECRET) != value


def test_a_value_moved_altered_or_sealed_by_another_key_does_not_open() -> None:
    ring = KeyRing(KEYS)
    value = ring.seal("key:1", SECRET)
    with pytest.raises(VaultError, match="key:2"):
        ring.open("key:2", value)
    flipped = value[:-6] + ("A" if value[-6] != "A" else "B") + value[-5:]
    with pytest.raises(VaultError, match="does not open it"):
        ring.open("key:1", flipped)
    with pytest.raises(VaultError, match="which SECRET_KEYS lacks"):
        KeyRing({1: KEYS[1]}).open("key:1", value)


@pytest.mark.parametrize("value", ["", "v1", "v2:1:AAAA", "v1:x:AAAA", "v1:1:!!", "v1:1:AAAA"])
def test_a_value_of_no_known_form_is_refused(value: str) -> None:
    with pytest.raises(VaultError, match="no form known here"):
        KeyRing(KEYS).open("key:1", value)


def test_a_ring_without_a_key_is_refused() -> None:
    with pytest.raises(VaultError, match="no key"):
        KeyRing({})


def test_tokens_are_signed_with_keys_of_their_own() -> None:
    ring = vault.token_ring(KEYS)
    assert ring.keys() == KEYS.keys()
    assert not set(ring.values()) & set(KEYS.values())
    assert vault.derive_key(KEYS[1], purpose="vault") not in ring.values()


def test_rotation_seals_what_an_older_key_had_sealed(dsn: str) -> None:
    put(dsn, "old", SECRET, {1: KEYS[1]})
    put(dsn, "new", b"other", KEYS)
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        assert vault.rotate(cursor, KeyRing(KEYS)) == 1
        assert vault.rotate(cursor, KeyRing(KEYS)) == 0
        assert vault.read_secret(cursor, KeyRing({2: KEYS[2]}), "old") == SECRET
        assert vault.has_secret(cursor, "old")
        vault.delete_secret(cursor, "old")
        assert not vault.has_secret(cursor, "old")
    connection.close()


def test_secrets_that_a_ring_does_not_open_are_named_before_anybody_needs_them(dsn: str) -> None:
    put(dsn, "old", SECRET, {1: KEYS[1]})
    put(dsn, "new", b"other", KEYS)
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        assert vault.sealed_otherwise(cursor, KeyRing(KEYS)) == []
        (lacks,) = vault.sealed_otherwise(cursor, KeyRing({2: KEYS[2]}))
        assert lacks == "secret old: sealed with key 1, which SECRET_KEYS lacks"
        (other,) = vault.sealed_otherwise(cursor, KeyRing({1: b"z" * 32, 2: KEYS[2]}))
        assert "key 1 does not open it" in other
        cursor.execute("DROP TABLE vault_secret")
        assert vault.sealed_otherwise(cursor, KeyRing(KEYS)) == []
    connection.close()


async def test_a_worker_reads_a_secret_and_a_replaced_one_when_its_time_is_up(dsn: str) -> None:
    put(dsn, "ref", SECRET, KEYS)
    keeping, asking = PgVault(dsn, KEYS), PgVault(dsn, KEYS, cache_s=0.0)
    assert await keeping.open("ref") == await asking.open("ref") == SECRET
    put(dsn, "ref", b"replaced", KEYS)
    assert await keeping.open("ref") == SECRET
    assert await asking.open("ref") == b"replaced"
    with pytest.raises(LookupError, match="no secret gone"):
        await asking.open("gone")
    assert SECRET.decode() not in repr(keeping)
    await asyncio.gather(*(asyncio.to_thread(one.close) for one in (keeping, asking)))


async def test_with_the_store_away_what_was_read_stays_good(dsn: str) -> None:
    put(dsn, "ref", SECRET, KEYS)
    worker = PgVault(dsn, KEYS, cache_s=0.0)
    assert await worker.open("ref") == SECRET
    drop_postgres(dsn)
    assert await worker.open("ref") == SECRET
    with pytest.raises(StoreUnavailable, match="postgresql"):
        await worker.open("never read")
    worker.close()

"""What is remembered of hosts, in a real Valkey: shared by a node's processes, by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from mailcore.routing.hosts import (
    BROKEN_TLS_S,
    DEAD_FIRST_S,
    FORGET_DEAD_S,
    NOTHING_KNOWN,
    KnownHosts,
)
from mailio.host_memory import RedisHostMemory
from tests.support.stack import redis_url

SOURCE, V6 = "192.0.2.1", "2001:db8::25"
HOSTS, ADDRESSES = ["mx1.test", "mx2.test"], ["198.51.100.1", "198.51.100.2", V6]


@pytest.fixture
def url() -> str:
    return redis_url()


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[RedisHostMemory, RedisHostMemory]]:
    """Two processes of one node."""
    pair = RedisHostMemory(url, node="n1"), RedisHostMemory(url, node="n1")
    yield pair
    for memory in pair:
        await memory.close()


async def look(memory: RedisHostMemory, source: str = SOURCE) -> KnownHosts:
    return await memory.known(source, hosts=HOSTS, addresses=ADDRESSES)


async def test_one_process_learns_what_another_met(
    two: tuple[RedisHostMemory, RedisHostMemory], url: str
) -> None:
    one, other = two
    assert await look(other) == NOTHING_KNOWN
    await one.note_dead(SOURCE, ADDRESSES[1], failures=1)
    await one.note_dead(SOURCE, V6, failures=3)
    await one.note_broken_tls("mx2.test")
    assert await look(other) == KnownHosts(
        failures={ADDRESSES[1]: 1, V6: 3},
        dead=frozenset({ADDRESSES[1], V6}),
        broken_tls=frozenset({"mx2.test"}),
    )
    assert await look(other, source="192.0.2.9") == KnownHosts(broken_tls=frozenset({"mx2.test"}))
    stranger = RedisHostMemory(url, node="n2")
    assert await look(stranger) == NOTHING_KNOWN
    await stranger.close()


async def test_a_host_that_lives_again_is_forgotten(
    two: tuple[RedisHostMemory, RedisHostMemory],
) -> None:
    one, other = two
    await one.note_dead(SOURCE, ADDRESSES[0], failures=2)
    await other.note_alive(SOURCE, ADDRESSES[0])
    assert await look(one) == NOTHING_KNOWN


async def test_a_rest_runs_out_by_itself_and_the_failures_are_counted_on(
    two: tuple[RedisHostMemory, RedisHostMemory], url: str
) -> None:
    one, other = two
    await one.note_dead(SOURCE, ADDRESSES[0], failures=1)
    with redis.Redis.from_url(url, decode_responses=True) as store:
        lives = {key: store.pttl(key) for key in store.scan_iter("pf:hosts:n1:*")}
        assert all(
            0 < int(left) <= (DEAD_FIRST_S + FORGET_DEAD_S) * 1000 for left in lives.values()
        )
        (dead,) = [key for key in lives if ":dead:" in key]
        assert int(lives[dead]) <= DEAD_FIRST_S * 1000
        store.delete(dead)
    assert await look(other) == KnownHosts(failures={ADDRESSES[0]: 1})


async def test_what_fails_at_once_is_remembered_all(
    two: tuple[RedisHostMemory, RedisHostMemory],
) -> None:
    one, other = two
    many = [f"198.51.100.{n}" for n in range(100)]
    await asyncio.gather(*(one.note_dead(SOURCE, each, failures=1) for each in many))
    known = await other.known(SOURCE, hosts=[], addresses=many)
    assert known.dead == set(many)


async def test_broken_tls_is_remembered_for_an_hour_and_no_longer(
    two: tuple[RedisHostMemory, RedisHostMemory], url: str
) -> None:
    one, other = two
    await one.note_broken_tls("mx1.test")
    with redis.Redis.from_url(url) as store:
        (key,) = store.scan_iter("pf:hosts:n1:tls:*")
        left_ms = int(store.pttl(key))
        assert (BROKEN_TLS_S - 60) * 1000 < left_ms <= BROKEN_TLS_S * 1000
        store.delete(key)
    assert await look(other) == NOTHING_KNOWN


async def test_nothing_asked_is_nothing_known(
    two: tuple[RedisHostMemory, RedisHostMemory],
) -> None:
    assert await two[0].known(SOURCE, hosts=[], addresses=[]) == NOTHING_KNOWN


async def test_with_the_store_away_a_process_knows_what_itself_has_met() -> None:
    memory = RedisHostMemory("redis://127.0.0.1:1/0", node="n1")
    assert await look(memory) == NOTHING_KNOWN
    await memory.note_dead(SOURCE, ADDRESSES[0], failures=1)
    await memory.note_broken_tls("mx1.test")
    known = await look(memory)
    assert (known.dead, known.failures) == (frozenset({ADDRESSES[0]}), {ADDRESSES[0]: 1})
    assert known.broken_tls == frozenset({"mx1.test"})
    await memory.note_alive(SOURCE, ADDRESSES[0])
    assert (await look(memory)).dead == frozenset()
    await memory.close()

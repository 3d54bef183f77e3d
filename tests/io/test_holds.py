"""What a process knows of holds: at once by notice, soon without one, still when all is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from mailcore.holds import HoldScope
from mailcore.ports import StoreUnavailable
from mailio.holds import HoldCache, announce
from tests.io.ledger import world
from tests.io.ledger.proxy import BreakingLine
from tests.io.ledger.world import ledger_url, query
from tests.support.stack import redis_url

NOWHERE = "redis://127.0.0.1:1/0"
NEVER_S = 3600.0
SOON_S = 0.05


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    world.empty()
    yield
    world.empty()


@pytest.fixture
def made() -> Iterator[Callable[..., HoldCache]]:
    caches: list[HoldCache] = []

    def make(dsn: str = "", redis: str = "", *, poll_s: float = NEVER_S) -> HoldCache:
        caches.append(HoldCache(dsn or ledger_url(), redis or redis_url(), poll_s=poll_s))
        return caches[-1]

    yield make
    for cache in caches:
        cache.stop()


def until(what: Callable[[], bool]) -> None:
    """Wait for something to become true; pytest's timeout ends what never does."""
    while not what():
        time.sleep(0.01)  # noqa: TID251 - between two looks at another thread


def place() -> int:
    return world.hold(HoldScope.ISP, target_id=3)


def test_what_is_held_is_known_from_the_start(made: Callable[..., HoldCache]) -> None:
    place()
    assert (HoldScope.ISP, 3) in made(redis=NOWHERE).current().by_id


def test_a_hold_of_a_scope_of_a_newer_release_holds_everything(
    made: Callable[..., HoldCache],
) -> None:
    cache = made(redis=NOWHERE, poll_s=SOON_S)
    number = place()
    query("UPDATE queue_hold SET scope = 'continent'")
    until(lambda: cache.current().everything is not None)
    world.release(number)
    until(lambda: cache.current().is_empty)


def test_a_process_that_cannot_read_what_is_held_refuses_to_start() -> None:
    with pytest.raises(StoreUnavailable):
        HoldCache("postgresql://nobody@127.0.0.1:1/none", NOWHERE)


def test_a_notice_is_enough(made: Callable[..., HoldCache]) -> None:
    told: list[bool] = []
    cache = made()
    cache.changed = lambda: told.append(cache.current().is_empty)
    number = place()
    assert announce(redis_url())
    until(lambda: not cache.current().is_empty)
    world.release(number)
    announce(redis_url())
    until(lambda: cache.current().is_empty)
    until(lambda: told == [False, True])


def test_a_lost_notice_is_made_up_for_by_a_poll(made: Callable[..., HoldCache]) -> None:
    cache = made(redis=NOWHERE, poll_s=SOON_S)
    place()
    assert not announce(NOWHERE)
    until(lambda: not cache.current().is_empty)
    # Its end comes by itself, by the database's clock.
    query("UPDATE queue_hold SET ends_at = now()")
    until(lambda: cache.current().is_empty)


def test_the_set_is_the_same_object_while_nothing_changes(made: Callable[..., HoldCache]) -> None:
    place()
    cache = made()
    before = cache.current()
    for _ in range(3):
        cache.refresh()
    assert cache.current() is before
    world.hold(HoldScope.SENDER, target_id=1)
    cache.refresh()
    assert cache.current() is not before


def test_with_the_database_away_what_was_read_last_stays_in_force(
    made: Callable[..., HoldCache], caplog: pytest.LogCaptureFixture
) -> None:
    place()
    with BreakingLine(ledger_url()) as line:
        cache = made(dsn=line.dsn, redis=NOWHERE, poll_s=SOON_S)
        before = cache.current()
        assert not before.is_empty
    # The line is gone for good; a read has failed once the log says so.
    until(lambda: any(record.message == "holds not read" for record in caplog.records))
    assert cache.current() is before

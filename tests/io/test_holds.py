"""What a process knows of holds: at once by notice, soon without one, still when all is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from mailcore.holds import HoldScope
from mailcore.ports import StoreUnavailable
from mailio.holds import HoldCache, announce
from mailio.ledger.holds import PgHolds
from tests.io.ledger.proxy import BreakingLine
from tests.io.ledger.world import ledger_url, query
from tests.support.stack import redis_url

NOWHERE = "redis://127.0.0.1:1/0"
NEVER_S = 3600.0
SOON_S = 0.05


@pytest.fixture
def holds() -> Iterator[PgHolds]:
    side = PgHolds(ledger_url())
    query("TRUNCATE queue_hold RESTART IDENTITY")
    yield side
    side.close()
    query("TRUNCATE queue_hold RESTART IDENTITY")


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


def place(holds: PgHolds) -> int:
    return holds.place(HoldScope.ISP, target_id=3, reason="why", author="ann").hold.id


def test_what_is_held_is_known_from_the_start(
    holds: PgHolds, made: Callable[..., HoldCache]
) -> None:
    place(holds)
    assert (HoldScope.ISP, 3) in made(redis=NOWHERE).current().by_id


def test_a_process_that_cannot_read_what_is_held_refuses_to_start() -> None:
    with pytest.raises(StoreUnavailable):
        HoldCache("postgresql://nobody@127.0.0.1:1/none", NOWHERE)


def test_a_notice_is_enough(holds: PgHolds, made: Callable[..., HoldCache]) -> None:
    told: list[bool] = []
    cache = made()
    cache.changed = lambda: told.append(cache.current().is_empty)
    number = place(holds)
    assert announce(redis_url())
    until(lambda: not cache.current().is_empty)
    holds.release(number, by="ann")
    announce(redis_url())
    until(lambda: cache.current().is_empty)
    until(lambda: told == [False, True])


def test_a_lost_notice_is_made_up_for_by_a_poll(
    holds: PgHolds, made: Callable[..., HoldCache]
) -> None:
    cache = made(redis=NOWHERE, poll_s=SOON_S)
    place(holds)
    assert not announce(NOWHERE)
    until(lambda: not cache.current().is_empty)
    # Its end comes by itself, by the database's clock.
    query("UPDATE queue_hold SET ends_at = now()")
    until(lambda: cache.current().is_empty)


def test_the_set_is_the_same_object_while_nothing_changes(
    holds: PgHolds, made: Callable[..., HoldCache]
) -> None:
    place(holds)
    cache = made()
    before = cache.current()
    for _ in range(3):
        cache.refresh()
    assert cache.current() is before
    holds.place(HoldScope.SENDER, target_id=1, reason="why", author="ann")
    cache.refresh()
    assert cache.current() is not before


def test_with_the_database_away_what_was_read_last_stays_in_force(
    holds: PgHolds, made: Callable[..., HoldCache], caplog: pytest.LogCaptureFixture
) -> None:
    place(holds)
    with BreakingLine(ledger_url()) as line:
        cache = made(dsn=line.dsn, redis=NOWHERE, poll_s=SOON_S)
        before = cache.current()
        assert not before.is_empty
    # The line is gone for good; a read has failed once the log says so.
    until(lambda: any(record.message == "holds not read" for record in caplog.records))
    assert cache.current() is before

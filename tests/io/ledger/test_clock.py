"""The clock follows the database and never jumps with the machine's."""

from __future__ import annotations

from datetime import UTC, datetime

from mailio.clock import LedgerClock
from mailio.ledger.accept import Acceptor


class Hands:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def clock(hands: Hands, wall: float = 5000.0) -> LedgerClock:
    return LedgerClock(monotonic=hands, wall=lambda: wall)


def test_unobserved_it_tells_the_machines_time() -> None:
    told = clock(Hands())
    assert told.now() == datetime.fromtimestamp(5000, UTC)
    assert not told.is_observed


def test_the_shortest_round_trip_is_believed() -> None:
    hands = Hands()
    told = clock(hands)
    told.observe(before=100.0, database=7000.1, after=100.2)
    told.observe(before=100.2, database=9000.0, after=104.2)  # slow, so it may be 2 s off
    assert abs(told.now().timestamp() - 7000.0) < 1e-6
    assert told.now_ms() in (6999999, 7000000)
    hands.at += 3
    assert abs(told.now().timestamp() - 7003.0) < 1e-6
    assert told.monotonic() == 103.0


def test_an_old_observation_gives_way_to_a_slower_fresh_one() -> None:
    hands = Hands()
    told = clock(hands)
    told.observe(before=100.0, database=7000.0, after=100.0)
    told.observe(before=1000.0, database=7901.0, after=1002.0)
    hands.at = 1001.0
    assert abs(told.now().timestamp() - 7901.0) < 1e-6


def test_it_asks_a_database_a_few_times(acceptor: Acceptor) -> None:
    told = LedgerClock(wall=lambda: 0.0)
    told.refresh(acceptor.database_time)
    assert told.is_observed
    assert abs(told.now().timestamp() - acceptor.database_time()) < 5

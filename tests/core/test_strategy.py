"""What a strategy allows, and that no schedule of a path exceeds its rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.outcome import MailClass
from mailcore.policy.model import Strategy
from mailcore.shaping.strategy import (
    Rate,
    class_limit,
    rate_of,
    slowest,
    spacing_s,
    streams,
)


def strategy(
    connections: int = 1,
    messages: int = 60,
    attempts: int = 1,
    seconds: float = 60.0,
    *,
    id: int = 1,
) -> Strategy:
    return Strategy(id, "any", connections, messages, attempts, seconds)


def test_the_rate_is_connections_times_messages_times_attempts() -> None:
    made = strategy(3, 20, 2, 30.0)
    assert rate_of(made) == Rate(120, 30.0)


@pytest.mark.parametrize(
    "made",
    [strategy(connections=0), strategy(messages=0), strategy(attempts=0), strategy(seconds=0)],
)
def test_a_part_that_is_none_makes_the_rate_unlimited(made: Strategy) -> None:
    assert rate_of(made).is_unlimited
    assert spacing_s(rate_of(made)) == 0.0
    assert streams(rate_of(made), MailClass.MAIN) == ()


def test_of_strategies_that_meet_on_a_path_the_strictest_holds() -> None:
    free, slow = strategy(connections=0, id=1), strategy(1, 1, id=2)
    narrow = strategy(1, 60, 1, id=3)
    wide = strategy(2, 30, 1, id=4)
    assert slowest([free, wide, slow]) is slow
    assert slowest([wide, narrow]) is narrow
    assert slowest([free]) is free


@pytest.mark.parametrize(
    ("limit", "main", "priority"), [(0, 0, 0), (1, 1, 1), (2, 1, 2), (10, 9, 10)]
)
def test_one_slot_of_two_or_more_is_kept_for_priority(limit: int, main: int, priority: int) -> None:
    assert class_limit(limit, MailClass.MAIN) == main
    assert class_limit(limit, MailClass.PRIORITY) == priority


def test_a_tenth_of_a_rate_is_kept_for_priority() -> None:
    [common] = streams(Rate(1000, 10.0), MailClass.MAIN)
    also_common, own = streams(Rate(1000, 10.0), MailClass.PRIORITY)
    assert also_common == common
    assert common.interval_s == pytest.approx(own.interval_s / 9)


def test_a_rate_of_few_messages_is_not_divided() -> None:
    rate = Rate(9, 60.0)
    assert streams(rate, MailClass.MAIN) == streams(rate, MailClass.PRIORITY)
    assert len(streams(rate, MailClass.MAIN)) == 1


def sends(interval_s: float, offset_s: float, until_s: float) -> list[float]:
    return [offset_s + i * interval_s for i in range(int((until_s - offset_s) / interval_s) + 1)]


@given(
    count=st.integers(1, 3000),
    interval_s=st.floats(0.1, 1e5),
    offset=st.floats(0, 1),
    start=st.floats(0, 1),
)
def test_all_streams_of_a_path_together_never_exceed_the_rate_in_any_interval(
    count: int, interval_s: float, offset: float, start: float
) -> None:
    own = streams(Rate(count, interval_s), MailClass.PRIORITY)
    every = sorted(
        at
        for number, stream in enumerate(own)
        for at in sends(stream.interval_s, number * offset * stream.interval_s, 2.5 * interval_s)
    )
    opens = start * interval_s
    assert sum(opens <= at < opens + interval_s for at in every) <= count

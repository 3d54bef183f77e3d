"""When an alert begins, is told again, and ends: decisions without a database."""

from datetime import UTC, datetime, timedelta

import pytest

from control.notify.choices import AlertState
from control.notify.decide import Limits, Reading, Stand, Step, next_step

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits(threshold=100.0, clear_ratio=0.8, remind_after=timedelta(hours=12))


def reading(value: float | None) -> Reading:
    return Reading("node:a", "a", value)


def stand(state: AlertState, *, since_s: float = 0, told_s: float | None = None) -> Stand:
    told_at = None if told_s is None else NOW - timedelta(seconds=told_s)
    return Stand(state, NOW - timedelta(seconds=since_s), told_at)


RAISED = stand(AlertState.RAISED, told_s=60)


@pytest.mark.parametrize(
    ("value", "before", "step"),
    [
        (99.9, None, Step.NOTHING),
        (100.0, None, Step.RAISE),
        (99.9, RAISED, Step.KEEP),
        (80.0, RAISED, Step.KEEP),
        (79.9, RAISED, Step.CLEAR),
    ],
)
def test_an_alert_ends_only_well_below_where_it_began(
    value: float, before: Stand | None, step: Step
) -> None:
    assert next_step(LIMITS, reading(value), before, now=NOW) is step


@pytest.mark.parametrize(
    ("value", "before", "step"),
    [
        (101.0, None, Step.NOTHING),
        (100.0, None, Step.RAISE),
        (124.0, RAISED, Step.KEEP),
        (126.0, RAISED, Step.CLEAR),
    ],
)
def test_where_less_is_worse_an_alert_ends_well_above_where_it_began(
    value: float, before: Stand | None, step: Step
) -> None:
    floor = Limits(100.0, 0.8, timedelta(), is_floor=True)
    assert next_step(floor, reading(value), before, now=NOW) is step


def test_what_is_not_there_any_more_is_over() -> None:
    assert next_step(LIMITS, None, RAISED, now=NOW) is Step.CLEAR
    assert next_step(LIMITS, None, None, now=NOW) is Step.NOTHING


def test_what_is_wrong_for_a_moment_is_watched_and_forgotten() -> None:
    assert next_step(LIMITS, reading(None), None, now=NOW) is Step.WATCH
    pending = stand(AlertState.PENDING, since_s=99)
    assert next_step(LIMITS, reading(None), pending, now=NOW) is Step.WATCH
    assert next_step(LIMITS, None, pending, now=NOW) is Step.FORGET


def test_what_is_wrong_for_the_threshold_s_time_is_raised() -> None:
    pending = stand(AlertState.PENDING, since_s=100)
    assert next_step(LIMITS, reading(None), pending, now=NOW) is Step.RAISE


def test_an_open_alert_is_told_again_after_its_time_and_never_if_that_is_zero() -> None:
    old = stand(AlertState.RAISED, since_s=90_000, told_s=12 * 3600)
    assert next_step(LIMITS, reading(200.0), old, now=NOW) is Step.REMIND
    never = Limits(100.0, 0.8, timedelta())
    assert next_step(never, reading(200.0), old, now=NOW) is Step.KEEP

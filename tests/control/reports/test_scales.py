"""Ticks that people count in, and figures that do not mislead."""

from datetime import UTC, datetime, timedelta

import pytest

from control.reports.scales import (
    MOST_COLUMNS,
    column_step,
    compact,
    count_ticks,
    duration,
    duration_ticks,
    percent,
    time_ticks,
)

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 1]),
        (3, [0, 1, 2, 3]),
        (7, [0, 2, 4, 6, 8]),
        (95, [0, 50, 100]),
        (12_600, [0, 5_000, 10_000, 15_000]),
    ],
)
def test_counts_have_whole_steps_of_one_two_or_five(top: int, ticks: list[int]) -> None:
    assert list(count_ticks(top)) == ticks


@pytest.mark.parametrize("minutes", [1, 59, 60, 61, 1440, 10_080, 92 * 1440])
def test_columns_are_few_enough_to_be_told_apart(minutes: int) -> None:
    span = timedelta(minutes=minutes)
    step = column_step(span)
    assert span / step <= MOST_COLUMNS
    assert step >= timedelta(minutes=1)


def test_an_axis_of_a_day_names_midnight_by_its_date() -> None:
    labels = [tick.label for tick in time_ticks(NOON, NOON + timedelta(days=1))]
    assert labels == ["12:00", "15:00", "18:00", "21:00", "5 May", "03:00", "06:00", "09:00"]


def test_ticks_stand_on_the_clock_not_on_the_start() -> None:
    ticks = time_ticks(NOON + timedelta(minutes=7), NOON + timedelta(minutes=67))
    assert [tick.label for tick in ticks] == ["12:10", "12:20", "12:30", "12:40", "12:50", "13:00"]
    assert [tick.is_minor for tick in ticks] == [False, True] * 3


def test_an_axis_of_three_months_has_no_more_ticks_than_wanted() -> None:
    assert len(time_ticks(NOON, NOON + timedelta(days=92))) <= 8


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10k"), (12_345, "12.3k"), (2_500_000, "2.5M")],
)
def test_large_numbers_are_short(number: int, text: str) -> None:
    assert compact(number) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "–"),
        (0, 5, "0 %"),
        (1, 1_000_000, "< 0.01 %"),
        (7, 10_000, "0.07 %"),
        (1, 3, "33.3 %"),
        (999_999, 1_000_000, "> 99.99 %"),
        (996, 1000, "99.60 %"),
        (5, 5, "100 %"),
    ],
)
def test_a_small_share_never_looks_like_none(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(None, "–"), (0, "0 ms"), (850, "850 ms"), (1_200, "1.2 s"), (60_000, "1 min"), (9e7, "1 d")],
)
def test_durations_are_told_in_their_largest_unit(ms: float | None, text: str) -> None:
    assert duration(ms) == text


def test_an_axis_of_durations_is_denser_where_it_spans_little() -> None:
    wide = [label for _ms, label in duration_ticks(1, 600_000)]
    assert wide == ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "1 min", "10 min"]
    narrow = [label for _ms, label in duration_ticks(900, 15_000)]
    assert narrow == ["1 s", "2 s", "5 s", "10 s"]

"""Which segment may go, which is worth a rewrite, and when a disk is full."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailcore.spool import (
    LEAST_FREED_BYTES,
    MOVED_ROW_BYTES,
    DiskSample,
    DiskState,
    Forecast,
    Keeper,
    LiveSegment,
    SegmentInfo,
    disk_state,
    forecast,
    is_worth_compacting,
    keeper_of,
)

MB = 2**20
OLD = SegmentInfo(7, 64 * MB, age_s=10_000.0, is_sealed=True)
LIVE = LiveSegment(7, contents=3, live_bytes=3 * MB, rows=3, undos=0)


def keeper(info: SegmentInfo, live: LiveSegment | None = None, retention_s: float = 0.0) -> Keeper:
    return keeper_of(info, live, grace_s=900.0, retention_s=retention_s)


def is_worth(info: SegmentInfo, live: LiveSegment, retention_s: float = 0.0) -> bool:
    return is_worth_compacting(info, live, grace_s=900.0, retention_s=retention_s)


def test_without_retention_only_the_grace_time_keeps_what_nothing_points_at() -> None:
    assert keeper(replace(OLD, age_s=899.9)) is Keeper.GRACE
    assert keeper(replace(OLD, age_s=900.0)) is Keeper.NOBODY


def test_retention_counts_from_the_end_of_the_grace_time() -> None:
    assert keeper(replace(OLD, age_s=1000.0), retention_s=3600.0) is Keeper.RETENTION
    assert keeper(replace(OLD, age_s=4499.0), retention_s=3600.0) is Keeper.RETENTION
    assert keeper(replace(OLD, age_s=4500.0), retention_s=3600.0) is Keeper.NOBODY


def test_a_row_keeps_its_segment_for_ever_and_an_undo_record_as_well() -> None:
    ancient = replace(OLD, age_s=1e9)
    assert keeper(ancient, LIVE) is Keeper.ROWS
    assert keeper(ancient, replace(LIVE, rows=0, undos=1)) is Keeper.UNDO


def test_what_is_written_to_is_never_anybodys_garbage() -> None:
    assert keeper(replace(OLD, is_sealed=False, age_s=1e9)) is Keeper.OPEN
    assert not is_worth(replace(OLD, is_sealed=False), LIVE)


def test_a_segment_is_rewritten_once_less_than_half_of_it_lives() -> None:
    assert is_worth(OLD, replace(LIVE, live_bytes=32 * MB))
    assert not is_worth(OLD, replace(LIVE, live_bytes=32 * MB + 1))


def test_a_segment_young_or_retained_is_not_rewritten() -> None:
    assert not is_worth(replace(OLD, age_s=899.0), LIVE)
    assert not is_worth(OLD, LIVE, retention_s=10_000.0)


def test_a_rewrite_that_gives_back_little_is_not_made() -> None:
    small = replace(OLD, size_bytes=LEAST_FREED_BYTES)
    assert not is_worth(small, replace(LIVE, live_bytes=1))
    many = replace(LIVE, live_bytes=1000, rows=OLD.size_bytes // MOVED_ROW_BYTES)
    assert not is_worth(OLD, many)  # one content of a campaign, and a row for each recipient


# --- the disk -------------------------------------------------------------------------------------


def falling(per_minute: int, minutes: int, *, now: int, inodes: int = 0) -> list[DiskSample]:
    return [
        DiskSample(60.0 * n, now + per_minute * n, 1_000_000 + inodes * n) for n in range(minutes)
    ]


def test_a_steady_fall_reaches_the_stop_threshold_when_its_line_does() -> None:
    told = forecast(falling(60 * MB, 60, now=3700 * MB), stop_bytes=100 * MB)
    assert told.growth == pytest.approx(MB)
    assert told.hours_left == pytest.approx(1.0)


def test_only_the_last_hour_counts() -> None:
    fast_before = [DiskSample(3700.0, 10**15, 1_000_000)]
    told = forecast([*falling(0, 60, now=MB), *fast_before], stop_bytes=0)
    assert told == Forecast(0.0, None)


def test_a_disk_that_empties_is_never_full() -> None:
    told = forecast(falling(-MB, 30, now=5000 * MB), stop_bytes=0)
    assert told.growth is not None
    assert told.growth < 0
    assert told.hours_left is None


def test_inodes_run_out_as_bytes_do() -> None:
    told = forecast(falling(0, 60, now=MB, inodes=10_000), stop_bytes=0)
    assert told.hours_left == pytest.approx(1_000_000 / 10_000 / 60)


def test_after_two_looks_within_minutes_it_is_too_early_to_say() -> None:
    assert forecast([], stop_bytes=0) == Forecast(None, None)
    assert forecast(falling(MB, 5, now=MB), stop_bytes=0) == Forecast(None, None)


def test_what_is_ten_years_away_is_not_in_sight() -> None:
    assert forecast(falling(1, 60, now=10**15), stop_bytes=0).hours_left is None


def test_below_the_threshold_there_is_no_time_left() -> None:
    assert forecast(falling(MB, 60, now=5 * MB), stop_bytes=6 * MB).hours_left == 0.0
    assert forecast(falling(-MB, 60, now=500 * MB), stop_bytes=501 * MB).hours_left == 0.0
    assert forecast(falling(0, 1, now=5 * MB), stop_bytes=6 * MB) == Forecast(None, 0.0)


@pytest.mark.parametrize(
    ("free", "hours", "state"),
    [
        (99, None, DiskState.STOPPED),
        (100, 1.0, DiskState.LOW),
        (1000, 23.9, DiskState.FILLING),
        (1000, 24.0, DiskState.OK),
        (1000, None, DiskState.OK),
    ],
)
def test_the_worst_that_holds_is_said(free: int, hours: float | None, state: DiskState) -> None:
    assert disk_state(free, warn_bytes=1000, stop_bytes=100, hours_left=hours) is state

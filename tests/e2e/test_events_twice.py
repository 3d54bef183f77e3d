"""The same batches of events applied a second time change no figure."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.fleet import Load, Running, eventually


def figures(running: Running, campaign: str) -> dict[str, Any]:
    """Return everything the statistics tell: events, traces' ends, roll-ups, times, replies."""
    until = datetime.now(UTC) + timedelta(minutes=5)
    since = until - timedelta(hours=6)
    reports = running.statistics.reports
    return {
        "counts": running.statistics.counts(),
        "of the campaign": running.statistics.counts(campaign=campaign),
        "final": running.statistics.final_counts(campaign=campaign),
        "by kind": reports.outcomes(since=since, until=until, by=("kind", "isp", "bounce_class")),
        "by minute": reports.outcomes(
            since=since, until=until, by=("kind",), step=timedelta(minutes=1)
        ),
        "times": reports.delivery_times(since=since, until=until, by=("isp",)),
        "replies": reports.replies(since=since, until=until),
    }


def rolled_up(running: Running) -> bool:
    """Whether the roll-ups have every event there is."""
    found = figures(running, "")
    rolled: dict[str, int] = {}
    for figure in found["by kind"]:
        kind = str(figure.by[0])
        rolled[kind] = rolled.get(kind, 0) + figure.events
    return bool({kind: n for kind, n in rolled.items() if kind} == found["counts"])


def test_batches_applied_twice_change_no_count(running: Running, campaign: Load) -> None:
    running.wait_applied()
    eventually(lambda: rolled_up(running))
    before = figures(running, campaign.campaign)
    assert before["of the campaign"]["accepted"] == campaign.accepted
    assert before["by kind"]
    entries = running.query("SELECT * FROM stop_entry ORDER BY id")
    cursor = "SELECT xid::text, row_id FROM ledger_cursor WHERE consumer = %s"
    for consumer in ("statistics", "stop_list"):
        stood = running.query(cursor, consumer)
        assert stood != [("0", 0)]
        running.query(
            "UPDATE ledger_cursor SET xid = '0', row_id = 0 WHERE consumer = %s", consumer
        )
        assert not running.applied(consumer)
        # Beat rings for each consumer every two seconds.
        eventually(lambda name=consumer: running.applied(name))  # type: ignore[misc]
        assert running.query(cursor, consumer) == stood
    eventually(lambda: rolled_up(running))
    assert figures(running, campaign.campaign) == before
    assert running.query("SELECT * FROM stop_entry ORDER BY id") == entries
    assert running.one("SELECT count(*) FROM ledger_outbox_refused") == 0

"""Holds on a fleet that runs: placed, ended, and known to every process that sends.

Gives    place, end, obeyed
Takes    a Running fleet
Raises   AssertionError when a process does not hear of it within a generous time
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailcore.holds import HoldScope
from mailio.holds import announce
from tests.support.fleet import Running, eventually

_SENDS = ("delivery*.log", "priority*.log")
_TOLD = "holds changed"


@contextmanager
def obeyed(running: Running) -> Iterator[None]:
    """Wait at the end of the block until every process that sends has heard of other holds."""
    before = _heard(running)
    assert before
    yield
    eventually(lambda: all(_heard(running)[log] > count for log, count in before.items()))


def place(running: Running, scope: HoldScope, *, target_id: int = 0, target: str = "") -> int:
    """Hold until ended; return the hold's number once it is obeyed."""
    with obeyed(running):
        number = running.one(
            "INSERT INTO queue_hold (scope, target_id, target, reason, author)"
            " VALUES (%s, %s, %s, 'why', 'test') RETURNING id",
            *(scope.value, target_id, target),
        )
        announce(running.settings.redis_url)
    return int(number)


def end(running: Running, number: int, *, in_s: float = 0.0) -> float:
    """Let a hold end by itself; return when, as the receivers tell time."""
    return float(
        running.one(
            "UPDATE queue_hold SET ends_at = now() + make_interval(secs => %s) WHERE id = %s"
            " RETURNING extract(epoch FROM ends_at)::float8",
            *(in_s, number),
        )
    )


def _heard(running: Running) -> dict[Path, int]:
    """Return how often each process that sends has heard of other holds, by its log."""
    directory = running.house.var_dir / "log"
    logs = [log for pattern in _SENDS for log in directory.glob(pattern)]
    return {log: log.read_text(errors="replace").count(_TOLD) for log in logs}

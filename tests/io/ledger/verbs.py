"""Verbs on the queue in a few words: run one through, and see what was told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailcore.disposition import write_rulebook
from mailcore.events import Event, decode_lines
from mailcore.outcome import RowState
from mailcore.policy.model import PolicySnapshot
from mailcore.reply import SmtpReply
from mailcore.rowfilter import RowFilter
from mailio.ledger.scan import Meant, Position
from mailio.ledger.verbs import QueueVerbs, VerbStep
from tests.io.ledger.world import query

RULES = write_rulebook(PolicySnapshot(revision=3))
REPLY = SmtpReply.local(554, "5.7.0", "purged by ann: a mistake")
BACK = SmtpReply.local(250, "2.0.0", "restored by ann")
ALL = RowFilter(everything=True)
BOTH_STATES = (RowState.WAITING, RowState.UNKNOWN)


@dataclass
class Total:
    """What the steps of one verb came to."""

    examined: int = 0
    changed: int = 0
    steps: int = 0
    by_state: Counter[str] = field(default_factory=Counter)
    by_isp: Counter[int] = field(default_factory=Counter)
    sample: list[Any] = field(default_factory=list)

    @property
    def matched(self) -> int:
        return self.by_state.total()


def now() -> datetime:
    found: datetime = query("SELECT clock_timestamp()")[0][0]
    return found


def through(meant: Meant, step: Callable[[Meant, Position], VerbStep]) -> Total:
    """Go through the queue, each position carried as a job carries it."""
    total, position = Total(), meant.start()
    while True:
        done = step(meant, Position.of_dict(json.loads(json.dumps(position.to_dict()))))
        total.examined += done.examined
        total.changed += done.changed
        total.by_state += done.by_state
        total.by_isp += done.by_isp
        total.sample += done.sample
        total.steps += 1
        assert total.steps < 5000
        if done.position is None:
            return total
        position = done.position


def count(verbs: QueueVerbs, wanted: RowFilter, **meant: Any) -> Total:
    return through(Meant(wanted, now(), **meant), lambda m, p: verbs.count_step(m, p, sample=10))


def purge(verbs: QueueVerbs, wanted: RowFilter = ALL, *, job: int = 9, turns: int = 1) -> Total:
    return through(
        Meant(wanted, now(), turns=turns),
        lambda m, p: verbs.purge_step(m, p, job_id=job, rules=RULES, reply=REPLY),
    )


def retry(verbs: QueueVerbs, wanted: RowFilter = ALL) -> Total:
    return through(Meant(wanted, now(), is_late=True), verbs.retry_step)


def undo(verbs: QueueVerbs, *, job: int = 9) -> tuple[int, int]:
    """Return how many were restored, and how many were too late."""
    after, restored, too_late = 0, 0, 0
    while True:
        step = verbs.undo_step(job, after, rules=RULES, reply=BACK)
        restored, too_late = restored + step.restored, too_late + step.too_late
        if step.after is None:
            return restored, too_late
        after = step.after


def told() -> list[Event]:
    """Return what the verbs told; the bodies of `world.accept` are no events."""
    bodies = [bytes(row[0]) for row in query("SELECT body FROM ledger_outbox ORDER BY id")]
    return [event for body in bodies if body[:2] == b"E1" for event in decode_lines(body)]


def kinds() -> Counter[str]:
    return Counter(event.kind for event in told())


def recipients() -> list[str]:
    return [row[0] for row in query("SELECT recipient FROM ledger_row ORDER BY recipient")]

"""End the rows of a restored ledger whose end the statistics know.

Gives    Reconciler: step
Takes    Restores, what is known of recipients (mailio.stats.traces)
Raises   StoreUnavailable

The statistics were not restored: they tell what became of mail until seconds before the ledger was
lost. A row that ended there is deleted, and nothing is told, for it was told then. What they do not
know stays set aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailcore.ports import Traces
from mailcore.restored import end_of
from mailio.ledger.restore import Restores

ROWS_A_STEP = 1000


@dataclass(frozen=True, slots=True)
class ReconcileStep:
    """How many rows were looked at, how many had ended as what; where to go on, None at the end."""

    looked_at: int
    ended: Mapping[str, int] = field(default_factory=dict)
    after: int | None = None


class Reconciler:
    """Goes through what is set aside, step by step; each may be repeated."""

    def __init__(
        self, restores: Restores, traces: Traces, *, rows_a_step: int = ROWS_A_STEP
    ) -> None:
        self._restores = restores
        self._traces = traces
        self._rows_a_step = rows_a_step

    def step(self, after: int, *, is_dry: bool = False) -> ReconcileStep:
        """Look at the next rows, from a number on, and end those that have ended."""
        rows = self._restores.aside(after=after, limit=self._rows_a_step)
        if not rows:
            return ReconcileStep(0)
        told: dict[tuple[str, int], list[Mapping[str, object]]] = {}
        for event in self._traces.of_messages([message_id for _, message_id, _ in rows]):
            key = str(event["message_id"]), int(str(event["recipient_no"]))
            told.setdefault(key, []).append(event)
        ends = {
            row_id: end_of(told.get((str(message_id), number), ()))
            for row_id, message_id, number in rows
        }
        over = [row_id for row_id, kind in ends.items() if kind]
        if over and not is_dry:
            self._restores.end(over)
        counted = Counter(kind for kind in ends.values() if kind)
        is_last = len(rows) < self._rows_a_step
        return ReconcileStep(len(rows), dict(counted), None if is_last else rows[-1][0])

"""When intake takes no more, and whom it refuses last.

Gives    with_reserve: commit what there is room for, urgent mail longer than all other;
         is_urgent, of a request's plans; OutboxGate: refuses while too much is not applied
Raises   StoreFull

Urgent is a request all of whose messages are priority mail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mailcore.outcome import MailClass
from mailcore.ports import StoreFull
from mailcore.submission import Plan

T = TypeVar("T")
R = TypeVar("R")
# Beyond where all other mail is refused, this part more is left to urgent mail.
RESERVE_DIVISOR = 4
LOOK_EVERY_S = 5.0


def is_urgent(plans: Iterable[Plan]) -> bool:
    """Whether all of these are priority mail."""
    return all(plan.submission.mail_class is MailClass.PRIORITY for plan in plans)


def with_reserve(
    items: Sequence[T],
    urgent: Sequence[bool],
    *,
    commit: Callable[[Sequence[T], bool], Sequence[R]],
) -> list[R | StoreFull]:
    """Commit all; if there is no room for them, what is urgent alone, and StoreFull for the rest.

    `commit` is told whether all it is given is urgent, and must refuse before it commits.
    """
    try:
        return list(commit(items, all(urgent)))
    except StoreFull as full:
        if all(urgent) or not any(urgent):
            raise
        chosen = [item for item, is_urgent in zip(items, urgent, strict=True) if is_urgent]
        results = iter(commit(chosen, True))
        return [next(results) if is_urgent else full for is_urgent in urgent]


class OutboxGate:
    """Refuses mail while more than `stop_bytes` of events wait for a consumer; 0: never.

    `measure` says how much waits; it is asked once in five seconds. What is queued still adds the
    events of its ends, so the outbox grows on beyond this, by no more than the queue is long.
    """

    def __init__(
        self,
        measure: Callable[[], int],
        *,
        stop_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measure = measure
        self._stop_bytes = stop_bytes
        self._monotonic = monotonic
        self._measured: tuple[float, int] | None = None

    def check(self, is_urgent: bool = False) -> None:
        """Raise StoreFull if mail may not come in now."""
        if not self._stop_bytes:
            return
        now = self._monotonic()
        if self._measured is None or now - self._measured[0] >= LOOK_EVERY_S:
            self._measured = now, self._measure()
        reserve = self._stop_bytes // RESERVE_DIVISOR if is_urgent else 0
        if self._measured[1] >= self._stop_bytes + reserve:
            waiting = f"{self._measured[1] >> 20} MB of events wait for their consumers"
            raise StoreFull("outbox", waiting)

"""Group commit: many threads wait, one of them commits for all.

Gives    GroupCommit.submit: returns when the item's batch was committed
Takes    a function that commits a list of items and returns one result per item
Raises   whatever the commit raised, to every thread whose item was in that batch; an exception
         that it returned in the place of a result, to the thread whose result it is

There is never more than one commit in flight: a second one would halve the batches and be slower.
No thread of our own is needed: the first that comes leads, those that come meanwhile form the next
batch, and its first member is handed the lead when the commit is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Ticket(Generic[T, R]):
    """One waiting item. `gate` is held until its result is there or it is its turn to lead."""

    __slots__ = ("error", "gate", "item", "leads", "result")

    def __init__(self, item: T) -> None:
        self.item = item
        self.gate = threading.Lock()
        self.gate.acquire()
        self.leads = False
        self.result: list[R] = []
        self.error: BaseException | None = None


class GroupCommit(Generic[T, R]):
    """Joins what threads submit at the same time into one commit.

    `linger_s` is how long a leader that found company in the last batch waits for more, so that a
    lone client never waits and a crowd fills bigger batches. A batch is closed once it weighs
    `max_weight` (`weigh` an item; by default each is 1).
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        linger_s: float = 0.0,
        weigh: Callable[[T], int] = lambda item: 1,
        max_weight: int = 1000,
    ) -> None:
        self._commit = commit
        self._linger_s = linger_s
        self._weigh = weigh
        self._max_weight = max_weight
        self._lock = threading.Lock()
        self._queue: list[_Ticket[T, R]] = []
        self._is_led = False
        self._last_count = 0
        self._never = threading.Event()

    def submit(self, item: T) -> R:
        """Commit the item together with what others submit; return its result."""
        ticket: _Ticket[T, R] = _Ticket(item)
        with self._lock:
            self._queue.append(ticket)
            leads = not self._is_led
            if leads:
                self._is_led = True
        if not leads:
            ticket.gate.acquire()
            leads = ticket.leads
        if leads:
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        return ticket.result[0]

    def _lead(self) -> None:
        if self._linger_s and self._last_count > 1 and len(self._queue) < self._last_count:
            self._never.wait(self._linger_s)
        batch = self._take()
        try:
            results = self._commit([ticket.item for ticket in batch])
            for ticket, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    ticket.error = result
                else:
                    ticket.result.append(result)
        except BaseException as exc:
            for ticket in batch:
                ticket.error = exc
        finally:
            self._hand_over(batch)

    def _take(self) -> list[_Ticket[T, R]]:
        with self._lock:
            weight = count = 0
            while count < len(self._queue) and (not count or weight < self._max_weight):
                weight += self._weigh(self._queue[count].item)
                count += 1
            batch, self._queue = self._queue[:count], self._queue[count:]
        self._last_count = count
        return batch

    def _hand_over(self, batch: Sequence[_Ticket[T, R]]) -> None:
        with self._lock:
            heir = self._queue[0] if self._queue else None
            self._is_led = heir is not None
        if heir is not None:
            heir.leads = True
            heir.gate.release()
        for ticket in batch:
            ticket.gate.release()

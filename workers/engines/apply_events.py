"""Bring a consumer up to the outbox.

Gives    ApplyPorts, apply, CONSUMERS
Takes    the name of a consumer: statistics, stop_list, dsn
Raises   LookupError for a consumer there is not. A store that is away is logged: the events wait
Follows  design.md section 3 step 8; style.md rule 7: hand over before you let go

The cursor moves last. A crash before that applies the same batches again, which changes nothing:
an event is a row named by its id, an address is on a list once, a report has a key. Roll-ups follow
within seconds: to compute the running minute again with every batch would cost more than its
inserts. Their minutes are noted in the store before the cursor passes the events, so no crash
forgets one. A body that can never be read is set aside, so that it holds up nobody and is not lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mailcore.errors import SchemaError
from mailcore.ports import Outbox, OutboxBatch, Statistics, StopLists, StoreUnavailable
from mailcore.stats import lines_of, stop_entries, touched_minutes
from workers.engines.report import Reporter
from workers.engines.roll_up import roll_up

STATISTICS = "statistics"
MAX_EVENTS = 50_000
MAX_BATCHES = 500
BUDGET_S = 4.0
ROLL_UP_EVERY_S = 5.0

log = logging.getLogger(__name__)


def _turns() -> Mapping[str, threading.Lock]:
    return {consumer: threading.Lock() for consumer in CONSUMERS}


@dataclass(slots=True)
class Pace:
    """When this process last rolled up, by the monotonic clock; only who has the turn looks."""

    rolled_up_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class ApplyPorts:
    """What applying events needs. `turns` keeps the threads of this process apart, for the
    outbox's lock belongs to the process."""

    outbox: Outbox
    statistics: Statistics
    stop_list: StopLists
    reporter: Reporter
    monotonic: Callable[[], float] = time.monotonic
    turns: Mapping[str, threading.Lock] = field(default_factory=_turns)
    pace: Pace = field(default_factory=Pace)


def apply(consumer: str, ports: ApplyPorts, *, budget_s: float = BUDGET_S) -> int:
    """Apply what the consumer has not seen, until there is no more or the time is up.

    Return how many events that were; 0 also when another thread or process is at it.
    """
    if consumer not in CONSUMERS:
        raise LookupError(f"there is no consumer {consumer!r}; there are {', '.join(CONSUMERS)}")
    turn = ports.turns[consumer]
    if not turn.acquire(blocking=False):
        return 0
    try:
        return _apply_leading(consumer, ports, budget_s)
    finally:
        turn.release()


def _apply_leading(consumer: str, ports: ApplyPorts, budget_s: float) -> int:
    applied = 0
    try:
        if not ports.outbox.lead(consumer):
            return 0
        try:
            for count in _rounds(consumer, ports, ports.monotonic() + budget_s):
                applied += count
            if consumer == STATISTICS:
                _roll_up_when_due(ports)
        finally:
            ports.outbox.release(consumer)
    except StoreUnavailable as exc:
        # Nothing is lost: the cursor stands before what was not applied, and a bell rings soon.
        log.warning(
            "events wait for a store",
            extra={"consumer": consumer, "store": exc.store, "reason": exc.reason},
        )
    return applied


def _roll_up_when_due(ports: ApplyPorts) -> None:
    if ports.monotonic() - ports.pace.rolled_up_at >= ROLL_UP_EVERY_S:
        roll_up(ports.statistics)
        ports.pace.rolled_up_at = ports.monotonic()


def _rounds(consumer: str, ports: ApplyPorts, deadline: float) -> Iterator[int]:
    """Apply one portion after the other; yield the events of each."""
    take = CONSUMERS[consumer]
    while True:
        batches = ports.outbox.read(consumer, limit=MAX_BATCHES)
        for portion in _portions(batches):
            _apply_all(consumer, take, portion, ports)
            ports.outbox.advance(consumer, portion[-1].cursor)
            yield sum(batch.event_count for batch in portion)
            if ports.monotonic() >= deadline:
                return
        if len(batches) < MAX_BATCHES:
            return


def _portions(batches: Sequence[OutboxBatch]) -> Iterator[Sequence[OutboxBatch]]:
    """Divide batches into runs of at most MAX_EVENTS events; a batch is never divided."""
    portion: list[OutboxBatch] = []
    events = 0
    for batch in batches:
        if portion and events + batch.event_count > MAX_EVENTS:
            yield portion
            portion, events = [], 0
        portion.append(batch)
        events += batch.event_count
    if portion:
        yield portion


def _apply_all(
    consumer: str, take: _Take, batches: Sequence[OutboxBatch], ports: ApplyPorts
) -> None:
    """Apply batches together; if one of them is bad, find it by halves and set it aside."""
    try:
        take([batch.body for batch in batches], ports)
    except SchemaError as exc:
        if len(batches) > 1:
            middle = len(batches) // 2
            _apply_all(consumer, take, batches[:middle], ports)
            _apply_all(consumer, take, batches[middle:], ports)
            return
        bad = batches[0]
        ports.outbox.refuse(consumer, bad, reason=str(exc))
        log.error(
            "events set aside: their batch cannot be read",
            extra={
                "consumer": consumer,
                "xid": bad.cursor.xid,
                "row": bad.cursor.row_id,
                "events": bad.event_count,
                "reason": str(exc),
            },
        )


def _to_statistics(bodies: Sequence[bytes], ports: ApplyPorts) -> None:
    minutes: set[int] = set()
    for body in bodies:
        minutes |= touched_minutes(lines_of(body))
    ports.statistics.insert(bodies)
    ports.statistics.touch(sorted(minutes))


def _to_stop_list(bodies: Sequence[bytes], ports: ApplyPorts) -> None:
    entries = [entry for body in bodies for entry in stop_entries(body)]
    ports.stop_list.add(entries)


def _to_senders(bodies: Sequence[bytes], ports: ApplyPorts) -> None:
    ports.reporter.tell(bodies)


_Take = Callable[[Sequence[bytes], ApplyPorts], None]
CONSUMERS: Mapping[str, _Take] = {
    STATISTICS: _to_statistics,
    "stop_list": _to_stop_list,
    "dsn": _to_senders,
}

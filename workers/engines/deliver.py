"""Send what a feed holds over one connection slot, from connect to close.

Takes    a feed, a slot of its path, and who is told what happened (`Told`)
Gives    serve (one connection's life)
Raises   nothing: a line that fails becomes outcomes, here and nowhere else (style.md rule 2)
Follows  RFC 5321 §4.5.4, RFC 2920 (what may be pipelined); how a session is opened: opening.py

The next transaction begins behind the final dot of the one before it: its commands travel while
the server still works on the content. Two are under way at most, replies come in order.

Recipients of one message share a transaction where their sender's return path is per message: as
many as stand together in the queue, at most 100. Each has an outcome of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailcore.dsn import request_of_all
from mailcore.outcome import Outcome, Scope, Verdict
from mailcore.ports import (
    RecipientReply,
    StoreUnavailable,
    TransportError,
    WireTransaction,
    Withheld,
)
from mailcore.reply import EnhancedStatus, SmtpReply
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job, put_off
from workers.engines.opening import open_session
from workers.engines.security import Asked, Grounds, asked_of, told_of
from workers.engines.told import Told

# A session that was idle may have been closed by the peer without our seeing it: such a try says
# nothing about the recipient and is made again at once, this many times.
STALE_TRIES = 2
# Lease or journal failed us: trying again at once would only spin.
WITHHELD_S = 1.0
# What every server takes (RFC 5321 §4.5.3.1.8).
MOST_RECIPIENTS = 100
# How many messages more a session sends when others wait that it cannot carry.
MOST_BESIDE = 20
OUR_FAULT = SmtpReply.local(451, "4.3.0", "an error of ours ended the attempt; it is in the log")
_TOO_MANY = EnhancedStatus(4, 5, 3)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Flight:
    """A transaction under way: a job for each of its forward-paths, in their order."""

    jobs: Sequence[Job]
    transaction: WireTransaction
    is_first: bool


async def serve(feed: Feed, *, ports: DeliverPorts, told: Told) -> None:
    """Open a session, send until there is nothing more or the session's share is used, close."""
    grounds = await _opened(feed, ports=ports, told=told)
    if grounds is None:
        return
    feed.ready_sessions += 1
    try:
        session = Session(feed, grounds, ports=ports, told=told)
        await session.transact_all()
    finally:
        feed.ready_sessions -= 1
        await grounds.connection.close()


async def _opened(feed: Feed, *, ports: DeliverPorts, told: Told) -> Grounds | None:
    """Return a session for the first job that gets one; None if there is none to be had."""
    task: asyncio.Task[None] | None = asyncio.current_task()
    if task is not None:
        feed.opening.add(task)
    try:
        while (job := feed.first) is not None:
            try:
                return await open_session(feed, job, ports=ports, told=told)
            except TransportError as error:
                told.path_failed(feed, job, error)
                if error.scope is not Scope.MESSAGE:
                    return None
            except Exception:
                # Nobody foresaw it: without an outcome the job would be the first again, for ever.
                log.exception("a session was not opened, by a fault of ours")
                fault = TransportError(OUR_FAULT, scope=Scope.MESSAGE, stage="connect")
                told.path_failed(feed, job, fault)
        return None
    finally:
        if task is not None:
            feed.opening.discard(task)


class Session:
    """What happens on one open connection."""

    def __init__(self, feed: Feed, grounds: Grounds, *, ports: DeliverPorts, told: Told) -> None:
        self._feed = feed
        self._grounds = grounds
        self._connection = connection = grounds.connection
        # The demands it does not meet, among what was set apart.
        self._unfit: set[Asked] = set()
        self._ports = ports
        self._told = told
        self._sent = 0
        self._most_sent = feed.strategy.messages_per_connection or 1_000_000
        self._most_recipients = min(connection.most_recipients or MOST_RECIPIENTS, MOST_RECIPIENTS)

    async def transact_all(self) -> None:
        """Send messages one behind the other until the session or the work ends."""
        previous: Flight | None = None
        job: Job | None = None
        jobs: list[Job] = []
        try:
            while True:
                jobs = []
                job = await self._next_job(is_alone=previous is None)
                if job is not None and not await self._may_begin(job):
                    continue
                flight = None
                if job is not None:
                    jobs.append(job)
                    await self._add_alike(jobs)
                    flight = self._begin(jobs)
                if previous is not None:
                    await self._finish(previous)
                if flight is None:
                    if previous is None:
                        return
                else:
                    await flight.transaction.content_sent
                previous = flight
        except Exception:
            # A fault nobody foresaw, of ours: no row may stay without an outcome because of it.
            log.exception("a session broke on our side")
            left = [*(previous.jobs if previous is not None else ()), *jobs]
            if job is not None and job not in left:
                left.append(job)
            for each in left:
                if each.is_on_the_wire:
                    self._give_up(each)

    # -- what is sent next

    async def _next_job(self, *, is_alone: bool) -> Job | None:
        """Return the next job; wait for it if nothing is under way."""
        feed, clock, unfit = self._feed, self._ports.clock, self._unfit
        if not self._takes_more():
            return None
        job = feed.take_nowait(now=clock.monotonic(), unfit=unfit)
        if job is None and is_alone:
            idle_s = self._ports.limits.idle_s
            job = await feed.take(idle_s=idle_s, monotonic=clock.monotonic(), unfit=unfit)
            if job is not None and not self._takes_more():
                # The peer ended the session while it was idle.
                self._put_back([job], counts=True)
                return None
        return job

    def _takes_more(self) -> bool:
        is_open = self._connection.is_usable and self._sent < self._most_sent
        return is_open and not self._feed.closing

    async def _may_begin(self, job: Job) -> bool:
        """Whether a job may go over this session now; one that may not has been dealt with."""
        if not await self._may_travel(job):
            return False
        if self._connection.takes_8bit or not job.wire.needs_8bit:
            return True
        return await self._told.made_7bit(self._feed, job)

    async def _may_travel(self, job: Job) -> bool:
        feed, told = self._feed, self._told
        if told.is_held(feed, job.row):
            feed.landed(job)
            told.held_back(job.row)
            return False
        if not await self._grounds.suits(feed, job, ports=self._ports, memory=told.tls):
            if feed.closing:
                feed.landed(job)
                told.returned(job.row, delay_s=0.0)
            else:
                # Its own session comes in the place of this one, which goes on for a while: mail
                # of two kinds that takes turns must not cost a session each.
                kind = asked_of(feed, job, self._ports)
                self._unfit.add(kind)
                feed.set_apart(job, kind)
                self._most_sent = min(self._most_sent, self._sent + MOST_BESIDE)
            return False
        return True

    async def _add_alike(self, jobs: list[Job]) -> None:
        """Take the jobs that may share a transaction with the first."""
        now, first = self._ports.clock.monotonic(), jobs[0]
        while len(jobs) < self._most_recipients:
            other = self._feed.take_alike(first, now=now, unfit=self._unfit)
            if other is None:
                return
            jobs.append(other)
            if not await self._may_travel(other):
                jobs.remove(other)

    def _begin(self, jobs: Sequence[Job]) -> Flight:
        ports = self._ports
        wire = jobs[0].wire
        if len(jobs) > 1:
            paths = tuple(path for job in jobs for path in job.wire.forward_paths)
            dsn = request_of_all([job.wire.dsn for job in jobs])
            wire = replace(wire, forward_paths=paths, dsn=dsn)

        def before_dot(undecided: Sequence[int]) -> bool:
            waiting = [jobs[index] for index in undecided]
            for job in waiting:
                if not job.is_on_the_wire or not ports.lease.holds(job.incarnation):
                    return False
            for job in waiting:
                try:
                    ports.journal.dot(job.row.id, job.row.claim_no)
                except StoreUnavailable as exc:
                    # What is not on disk before the dot could be sent twice after a crash.
                    log.error("dot withheld", extra={"store": exc.store, "reason": exc.reason})
                    return False
            for job in waiting:
                job.is_dotted = True
            return True

        flight = Flight(
            jobs, self._connection.begin(wire, before_dot=before_dot), is_first=self._sent == 0
        )
        self._sent += 1
        return flight

    # -- what came of it

    async def _finish(self, flight: Flight) -> None:
        """Await a transaction's replies and say what they mean."""
        try:
            verdicts = await flight.transaction.replies
        except TransportError as error:
            self._line_lost(flight, error)
            return
        again = []
        taken = sum(verdict.stage != "rcpt" for verdict in verdicts)
        for job, verdict in zip(flight.jobs, verdicts, strict=True):
            if _was_not_asked(verdict):
                again.append(job)
            elif taken and _is_one_too_many(job, verdict):
                # RFC 5321 §4.5.3.1.10: those that were taken go, the others come next.
                job.is_asked_again = True
                self._most_recipients = min(self._most_recipients, taken)
                again.append(job)
            else:
                self._decided(flight, job, verdict)
        self._put_back(again, counts=False)

    def _decided(self, flight: Flight, job: Job, verdict: RecipientReply) -> None:
        reply = verdict.reply
        if reply.code == 421 and flight.is_first and verdict.stage in ("mail", "rcpt"):
            # Before it took anything: it does not want us now, and would tell the next the same.
            verdict = replace(verdict, scope=Scope.HOST)
        elif verdict.stage != "mail":
            self._told.path_works(self._feed)
        if reply.is_positive and verdict.stage == "dot":
            word = Verdict.DELIVERED
        elif reply.is_permanent:
            word = Verdict.BOUNCED
        else:
            word = Verdict.DEFERRED
        self._tell(flight, job, word, verdict)

    def _line_lost(self, flight: Flight, error: TransportError) -> None:
        """A session broke under a transaction. Who had a word of its own before keeps it; the
        others are returned, unknown, tried again at once, or deferred."""
        lost = RecipientReply(error.reply, error.stage, error.scope)
        again = []
        for index, job in enumerate(flight.jobs):
            decided = error.decided[index] if error.decided else None
            was_asked = decided is None or not _was_not_asked(decided)
            if decided is not None and was_asked:
                self._decided(flight, job, decided)
            elif isinstance(error, Withheld):
                self._feed.landed(job)
                self._told.returned(job.row, delay_s=WITHHELD_S)
            elif error.after_dot and was_asked:
                self._tell(flight, job, Verdict.UNKNOWN, lost)
            elif not (flight.is_first and was_asked) and job.tries < STALE_TRIES:
                again.append(job)
            else:
                self._tell(flight, job, Verdict.DEFERRED, lost)
        self._put_back(again, counts=True)

    def _tell(self, flight: Flight, job: Job, verdict: Verdict, word: RecipientReply) -> None:
        """Hand over what became of one recipient."""
        self._feed.landed(job)
        row = job.row
        outcome = Outcome(
            row_id=row.id,
            claim_no=row.claim_no,
            verdict=verdict,
            scope=word.scope,
            reply=word.reply,
            stage=word.stage,
            session=told_of(self._connection.session, job),
            dialogue_ms=flight.transaction.dialogue_ms,
            after_dot=verdict is Verdict.UNKNOWN,
            source_id=self._feed.source.id,
            occurred_ms=int(self._ports.clock.now().timestamp() * 1000),
        )
        self._told.outcome(outcome, row)

    def _put_back(self, jobs: Sequence[Job], *, counts: bool) -> None:
        """Let jobs be tried again at once, in their order, before all others."""
        for job in reversed(jobs):
            self._feed.landed(job)
            job.tries += counts
            if self._feed.closing:
                self._told.returned(job.row, delay_s=0.0)
            else:
                self._feed.put_back(job)

    def _give_up(self, job: Job) -> None:
        """End an attempt that broke on our side; no dot is sent for it from here on."""
        self._feed.landed(job)
        outcome = put_off(
            self._feed,
            job.row,
            scope=Scope.MESSAGE,
            reply=OUR_FAULT,
            stage="dot" if job.is_dotted else "mail",
            now=self._ports.clock.now(),
            session=told_of(self._connection.session, job),
        )
        if job.is_dotted:
            outcome = replace(outcome, verdict=Verdict.UNKNOWN, after_dot=True)
        self._told.outcome(outcome, job.row)


def _was_not_asked(verdict: RecipientReply) -> bool:
    """Whether the server's LIMITS kept a recipient from being asked about."""
    return verdict.reply.is_local and verdict.reply.enhanced == _TOO_MANY


def _is_one_too_many(job: Job, verdict: RecipientReply) -> bool:
    """Whether a recipient was refused only because the transaction had enough of them.

    Without a status 452 may mean a full mailbox as well: that is asked about once more.
    """
    reply = verdict.reply
    if verdict.stage != "rcpt" or reply.code != 452:
        return False
    return reply.enhanced == _TOO_MANY or (reply.enhanced is None and not job.is_asked_again)

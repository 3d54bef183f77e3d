"""One path and class in this process: what waits to be sent on it, and who sends.

Gives    Job, Feed, together, put_off
Takes    rows that a claim returned, allowance as schedules, connections as tasks
Raises   nothing

A feed is only touched on the engine's loop, so it needs no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mailcore.bells import Path
from mailcore.envelope import QueuedRow
from mailcore.outcome import MailClass, Outcome, Scope, SessionInfo
from mailcore.policy.model import Relay, Source, Strategy
from mailcore.policy.words import HeloMode, TlsMode
from mailcore.ports import Grant, WireMessage
from mailcore.reply import SmtpReply

# In force until the first look at the lanes tells which strategies apply to the path.
UNLIMITED = Strategy(0, "", 0, 0, 0, 0.0)


# A send that is later than this has lost its place: to make up for it would be a burst.
STALE_S = 1.0


@dataclass(slots=True, eq=False)
class Job:
    """One row on its way out. `domain` is what its sender presents itself as; `incarnation` what
    it was claimed under; `not_before` is monotonic; `tries` counts stale sessions; `tls_words` are
    policy and result of TLS as its events tell them; `helo` is how a session for it greets;
    `is_asked_again` after a refusal that may have been about the number of recipients.

    Jobs of equal `share` (not None) may be recipients of one transaction.
    """

    row: QueuedRow
    wire: WireMessage
    tls: TlsMode
    domain: str
    incarnation: int
    not_before: float = 0.0
    share: tuple[object, ...] | None = None
    relay: Relay | None = None
    tries: int = 0
    is_on_the_wire: bool = False
    is_dotted: bool = False
    tls_words: tuple[str, str] = ("", "")
    helo: HeloMode = HeloMode.PTR
    is_asked_again: bool = False


@dataclass(slots=True, eq=False)
class Feed:
    """The state of one path for one class of mail.

    `apart` are jobs that an open session could not carry, by what they demand of TLS: the next
    session is opened for the first of them, and sessions take of those that are not unfit for them
    before all others. Of `tasks` those in `opening` have nothing on the wire yet.
    """

    path: Path
    mail_class: MailClass
    source: Source
    strategy: Strategy = UNLIMITED
    queue: deque[Job] = field(default_factory=deque)
    apart: dict[Hashable, deque[Job]] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    opening: set[asyncio.Task[None]] = field(default_factory=set)
    allowance: deque[float] = field(default_factory=deque)
    preparing: int = 0
    on_the_wire: int = 0
    ready_sessions: int = 0
    dry_since: float | None = None
    closing: bool = False
    is_wanted: bool = False
    ticket: str = ""
    resting_until: float = 0.0
    refused_until: float = 0.0
    full_until: float = 0.0
    bells: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def held(self) -> int:
        """How many rows this feed holds."""
        return self.waiting + self.preparing + self.on_the_wire

    @property
    def first(self) -> Job | None:
        """The job that the next session is for."""
        return next((waiting[0] for waiting in self._places()), None)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a session."""
        return len(self.queue) + self.waiting_apart

    @property
    def waiting_apart(self) -> int:
        """How many jobs wait for a session of their own kind."""
        return sum(map(len, self.apart.values()))

    @property
    def jobs(self) -> list[Job]:
        """All that waits for a session."""
        return [job for waiting in self._places() for job in waiting]

    def put(self, jobs: Iterable[Job]) -> None:
        """Queue jobs for sending and wake the sessions that wait."""
        self.queue.extend(jobs)
        self.arrived.set()

    def put_back(self, job: Job) -> None:
        """Queue a job again, before all others."""
        self.queue.appendleft(job)
        self.arrived.set()

    def set_apart(self, job: Job, kind: Hashable) -> None:
        """A job that was taken wants a session of its own kind."""
        self.landed(job)
        self.apart.setdefault(kind, deque()).append(job)

    def take_out(self, job: Job) -> bool:
        """Take a job out of the queue; False if a session has it."""
        for waiting in self._places():
            if job in waiting:
                waiting.remove(job)
                self._forget_empty()
                return True
        return False

    def landed(self, job: Job) -> None:
        """A job that was taken has an outcome, or goes back."""
        job.is_on_the_wire = False
        self.on_the_wire -= 1

    def forget_stale_allowance(self, *, now: float) -> None:
        """Drop allowance nobody used in its time."""
        while self.allowance and self.allowance[0] < now - STALE_S:
            self.allowance.popleft()

    def note_grant(self, grant: Grant, *, now: float) -> None:
        """Remember when the granted messages may go."""
        self.ticket = grant.ticket or self.ticket
        first = max(now + grant.first_s, self.allowance[-1] if self.allowance else 0.0)
        self.allowance.extend(first + i * grant.interval_s for i in range(grant.count))

    def take_nowait(self, *, now: float, unfit: Container[Hashable] = ()) -> Job | None:
        """Return the next job that may be sent now, or None; `unfit` are the kinds set apart that
        the session cannot carry."""
        for waiting in self._places(unfit):
            if waiting[0].not_before <= now:
                return self._taken(waiting)
        return None

    def take_alike(self, job: Job, *, now: float, unfit: Container[Hashable] = ()) -> Job | None:
        """Return a job that waits in front and may share the transaction of this one now, or
        None."""
        if job.share is None:
            return None
        for waiting in self._places(unfit):
            if waiting[0].share == job.share and waiting[0].not_before <= now:
                return self._taken(waiting)
        return None

    async def take(
        self, *, idle_s: float, monotonic: float, unfit: Container[Hashable] = ()
    ) -> Job | None:
        """Return the next job, waiting for it; None when idle for `idle_s`, when a connection of
        this path is wanted for another kind or by another process, or when the feed closes."""
        loop = asyncio.get_running_loop()
        offset = loop.time() - monotonic
        deadline = loop.time() + idle_s
        while not self.closing:
            now = loop.time()
            job = self.take_nowait(now=now - offset, unfit=unfit)
            if job is not None:
                return job
            heads = [waiting[0].not_before for waiting in self._places(unfit)]
            if now >= deadline or (not heads and (self.is_wanted or self.apart)):
                return None
            wake_at = min([deadline, *(not_before + offset for not_before in heads)])
            self.arrived.clear()
            try:
                async with asyncio.timeout_at(max(wake_at, now + 0.001)):
                    await self.arrived.wait()
            except TimeoutError:
                continue
        return None

    def drop_queue(self) -> list[QueuedRow]:
        """Take out everything that is queued and not on the wire."""
        rows = [job.row for job in self.jobs]
        self.queue.clear()
        self.apart.clear()
        return rows

    def _places(self, unfit: Container[Hashable] = ()) -> Iterator[deque[Job]]:
        """Return what waits in the order in which it is served; none is empty."""
        for kind, waiting in self.apart.items():
            if kind not in unfit:
                yield waiting
        if self.queue:
            yield self.queue

    def _taken(self, waiting: deque[Job]) -> Job:
        job = waiting.popleft()
        self._forget_empty()
        job.is_on_the_wire = True
        self.on_the_wire += 1
        return job

    def _forget_empty(self) -> None:
        if self.apart:
            self.apart = {kind: waiting for kind, waiting in self.apart.items() if waiting}

    def close(self) -> None:
        """Let sessions end as soon as they are idle."""
        self.closing = True
        self.arrived.set()


def together(jobs: Sequence[Job]) -> None:
    """Let neighbours that may share a transaction wait for the last of them: each recipient was
    granted a time of its own, and none may go before it."""
    for job, later in zip(reversed(jobs[:-1]), reversed(jobs[1:]), strict=True):
        if job.share is not None and job.share == later.share:
            job.not_before = later.not_before


def put_off(
    feed: Feed,
    row: QueuedRow,
    *,
    scope: Scope,
    reply: SmtpReply,
    stage: str,
    now: datetime,
    session: SessionInfo = SessionInfo(),  # noqa: B008  frozen, and the default says "none"
) -> Outcome:
    """Return the outcome of an attempt that ended before a server's word on the recipient."""
    return Outcome.deferred(
        row.id,
        row.claim_no,
        scope=scope,
        reply=reply,
        stage=stage,
        session=session,
        source_id=feed.source.id,
        occurred_ms=int(now.timestamp() * 1000),
    )

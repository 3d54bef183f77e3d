"""One path and class in this process: what waits to be sent on it, and who sends.

Gives    Job, Feed, put_off
Takes    rows that a claim returned, allowance as schedules, connections as tasks
Raises   nothing

A feed is only touched on the engine's loop, so it needs no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from mailcore.bells import Path
from mailcore.envelope import QueuedRow
from mailcore.outcome import MailClass, Outcome, Scope, SessionInfo
from mailcore.policy.model import Source, Strategy, TlsMode
from mailcore.ports import Grant, WireMessage
from mailcore.reply import SmtpReply

# In force until the first look at the lanes tells which strategies apply to the path.
UNLIMITED = Strategy(0, "", 0, 0, 0, 0.0)


# A send that is later than this has lost its place: to make up for it would be a burst.
STALE_S = 1.0


@dataclass(slots=True, eq=False)
class Job:
    """One row on its way out. `domain` is what its sender presents itself as; `incarnation` what
    it was claimed under; `not_before` is monotonic; `tries` counts stale sessions."""

    row: QueuedRow
    wire: WireMessage
    tls: TlsMode
    domain: str
    incarnation: int
    not_before: float = 0.0
    tries: int = 0
    is_on_the_wire: bool = False
    is_dotted: bool = False


@dataclass(slots=True, eq=False)
class Feed:
    """The state of one path for one class of mail."""

    path: Path
    mail_class: MailClass
    source: Source
    strategy: Strategy = UNLIMITED
    queue: deque[Job] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
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
        return len(self.queue) + self.preparing + self.on_the_wire

    def put(self, jobs: Iterable[Job]) -> None:
        """Queue jobs for sending and wake the sessions that wait."""
        self.queue.extend(jobs)
        self.arrived.set()

    def put_back(self, job: Job) -> None:
        """Queue a job again, before all others."""
        self.queue.appendleft(job)
        self.arrived.set()

    def take_out(self, job: Job) -> bool:
        """Take a job out of the queue; False if a session has it."""
        if job not in self.queue:
            return False
        self.queue.remove(job)
        return True

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

    def take_nowait(self, *, now: float) -> Job | None:
        """Return the next job that may be sent now, or None."""
        if not self.queue or self.queue[0].not_before > now:
            return None
        job = self.queue.popleft()
        job.is_on_the_wire = True
        self.on_the_wire += 1
        return job

    async def take(self, *, idle_s: float, monotonic: float) -> Job | None:
        """Return the next job, waiting for it; None when idle for `idle_s`, when another process
        wants a connection of this path, or when the feed closes."""
        loop = asyncio.get_running_loop()
        offset = loop.time() - monotonic
        deadline = loop.time() + idle_s
        while not self.closing:
            now = loop.time()
            job = self.take_nowait(now=now - offset)
            if job is not None:
                return job
            wake_at = deadline
            if self.queue:
                wake_at = min(deadline, self.queue[0].not_before + offset)
            if now >= deadline or (self.is_wanted and not self.queue):
                return None
            self.arrived.clear()
            try:
                async with asyncio.timeout_at(max(wake_at, now + 0.001)):
                    await self.arrived.wait()
            except TimeoutError:
                continue
        return None

    def drop_queue(self) -> list[QueuedRow]:
        """Take out everything that is queued and not on the wire."""
        rows = [job.row for job in self.queue]
        self.queue.clear()
        return rows

    def close(self) -> None:
        """Let sessions end as soon as they are idle."""
        self.closing = True
        self.arrived.set()


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

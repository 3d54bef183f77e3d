"""Drain lanes: claim for every active path of this process, feed sessions, linger, go quiet.

Takes    drain bells (`ring`), DeliverPorts
Gives    Dispatcher: `ring`, `run` (a loop), `stop`
Raises   nothing: with a store away nothing new is claimed, what is on the wire is finished
Follows  design.md section 3 (claim) and section 4 (slots, schedules, fairness)

A bell makes its paths active. One round then claims for all active paths of the process in one
statement, within the room their sessions have. A path without rows lingers a second, because a
bell for every small batch would cost more than the batch; it drops its bell *before* its last
claim, so that whatever arrives later is rung for again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Coroutine, Sequence
from functools import partial

from mailcore.bells import DrainBell, Path
from mailcore.envelope import QueuedRow
from mailcore.outcome import MailClass, Outcome, Scope, TlsNeed, Verdict
from mailcore.policy.lookup import presented_domain, tls_mode_for
from mailcore.policy.model import PolicySnapshot, TlsMode
from mailcore.ports import StoreUnavailable, TransportError, WireMessage
from mailcore.reply import SmtpReply
from mailcore.shaping.strategy import rate_of
from workers.engines.claim import Claimer
from workers.engines.context import DeliverPorts
from workers.engines.deliver import serve
from workers.engines.feed import Feed, Job, put_off
from workers.engines.prepare import Keyring, prepare
from workers.engines.settle import Settler

BROKEN_TLS_S = 3600.0
SLOT_RENEW_S = 10.0
# Well within the life of a bell's count, so that only a dead process's bells run out.
BELL_KEEP_S = 2.0
MOST_DOUBLINGS = 20
STORE_PAUSE_S = 0.5

log = logging.getLogger(__name__)


class Dispatcher:
    """All paths that are active in this process."""

    def __init__(self, ports: DeliverPorts, settler: Settler) -> None:
        self._ports = ports
        self._settler = settler
        self._limits = ports.limits
        self._feeds: dict[tuple[Path, MailClass], Feed] = {}
        self._slots: dict[asyncio.Task[None], tuple[Path, str]] = {}
        self._claimer = Claimer(ports, settler, self._space)
        self._keyring = Keyring()
        self._kick = asyncio.Event()
        self._stopping = False
        self._bytes_held = 0
        self._broken_tls: dict[str, float] = {}
        self._failures: dict[Path, int] = {}
        self._chores: set[asyncio.Task[None]] = set()

    # ── bells ────────────────────────────────────────────────────────────────────────────────

    async def ring(self, bell: DrainBell) -> None:
        """Make the bell's paths active; return when they are quiet again, or at once on stop."""
        active = [feed for path in bell.paths if (feed := self._activate(path, bell))]
        unknown = [path for path in bell.paths if (path, bell.mail_class) not in self._feeds]
        if unknown:
            # A source this snapshot no longer has: the count must not block the path for ever.
            await self._quietly(self._ports.shaper.drop_bells(unknown, mail_class=bell.mail_class))
        self._kick.set()
        while any(self._feeds.get((f.path, f.mail_class)) is f for f in active):
            await asyncio.sleep(self._limits.linger_s / 2)

    def _activate(self, path: Path, bell: DrainBell) -> Feed | None:
        key = (path, bell.mail_class)
        feed = self._feeds.get(key)
        if feed is not None or self._stopping:
            return feed
        policy = self._ports.policy.current()
        source = policy.sources.get(path.source_id)
        if source is None or source.node != self._ports.node or not source.is_active:
            return None
        feed = Feed(path, bell.mail_class, source)
        self._feeds[key] = feed
        return feed

    # ── the loop ─────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Claim, feed and close for ever."""
        renewing = [
            asyncio.create_task(self._renew_slots()),
            asyncio.create_task(self._keep_bells()),
        ]
        try:
            while True:
                if not self._feeds:
                    self._kick.clear()
                    await self._kick.wait()
                try:
                    claimed = await self._round()
                except StoreUnavailable as exc:
                    log.warning("no claim", extra={"store": exc.store, "reason": exc.reason})
                    await asyncio.sleep(STORE_PAUSE_S)
                    continue
                pause = self._limits.round_gap_s if claimed else self._limits.dry_gap_s
                await asyncio.sleep(pause)
        finally:
            for task in renewing:
                task.cancel()

    async def stop(self) -> None:
        """Claim no more, finish what is on the wire, give the rest back, close all sessions."""
        self._stopping = True
        for feed in self._feeds.values():
            feed.close()
            self._return_rows(feed.drop_queue(), delay_s=0.0)
        while self._slots or self._chores:
            await asyncio.wait([*self._slots, *self._chores], timeout=1.0)
        shaper, feeds = self._ports.shaper, list(self._feeds.values())
        self._feeds.clear()
        for feed in feeds:
            await self._quietly(shaper.drop_bells([feed.path], mail_class=feed.mail_class))
        await self._settler.flush()

    async def _round(self) -> int:
        policy = self._ports.policy.current()
        claimed = 0
        if not self._settler.is_stuck and self._ports.lease.holds() and not self._stopping:
            wanting = [feed for feed in self._feeds.values() if self._space(feed) > 0]
            claimed = await self._claim(wanting, policy)
        for feed in list(self._feeds.values()):
            await self._staff(feed)
            await self._retire_if_quiet(feed)
        return claimed

    async def _claim(self, feeds: Sequence[Feed], policy: PolicySnapshot) -> int:
        """Claim for these feeds and start making the rows ready; return how many."""
        assigned = await self._claimer.claim(feeds, policy)
        for feed, rows in assigned:
            feed.preparing += len(rows)
            self._bytes_held += sum(row.content.length for row in rows)
        if assigned:
            self._spawn(self._prepare(assigned, policy))
        return sum(len(rows) for _, rows in assigned)

    def _space(self, feed: Feed) -> int:
        """How many more rows this feed could hold; its allowance is another matter."""
        now = self._ports.clock.monotonic()
        if feed.closing or max(feed.resting_until, feed.refused_until) > now:
            return 0
        if self._bytes_held > self._limits.bytes_held:
            return 0
        total = sum(f.held for f in self._feeds.values())
        return min(
            4 * feed.ready_sessions + 16 - feed.held,
            self._limits.rows_per_path - feed.held,
            self._limits.rows - total,
        )

    async def _prepare(
        self, batches: Sequence[tuple[Feed, Sequence[QueuedRow]]], policy: PolicySnapshot
    ) -> None:
        rows = [row for _, part in batches for row in part]
        try:
            wires = await prepare(rows, policy=policy, ports=self._ports, keyring=self._keyring)
        except (StoreUnavailable, LookupError) as exc:
            log.error("content not made ready", extra={"reason": str(exc), "rows": len(rows)})
            for feed, part in batches:
                feed.preparing -= len(part)
            self._return_rows(rows, delay_s=5.0)
            return
        ready = iter(wires)
        for feed, part in batches:
            feed.preparing -= len(part)
            self._queue(feed, [(row, next(ready)) for row in part], policy)

    def _queue(
        self,
        feed: Feed,
        ready: Sequence[tuple[QueuedRow, WireMessage | None]],
        policy: PolicySnapshot,
    ) -> None:
        jobs = []
        for row, wire in ready:
            if wire is None:
                self._no_content(feed, row)
            elif feed.closing:
                self.returned(row, delay_s=0.0)
            else:
                not_before = feed.allowance.popleft() if feed.allowance else 0.0
                jobs.append(_job(feed, row, wire, policy, not_before))
        feed.put(jobs)

    def _no_content(self, feed: Feed, row: QueuedRow) -> None:
        """A row without content is a reported failure, never silence."""
        log.error("content missing", extra={"row": row.id, "segment": row.content.segment})
        reply = SmtpReply.local(451, "4.3.0", "the message's content is missing in the spool")
        now = self._ports.clock.now()
        self.outcome(
            put_off(feed, row, scope=Scope.MESSAGE, reply=reply, stage="spool", now=now), row
        )

    # ── sessions ─────────────────────────────────────────────────────────────────────────────

    async def _staff(self, feed: Feed) -> None:
        """Open as many sessions as the queue wants and the limits allow."""
        rests = feed.resting_until > self._ports.clock.monotonic()
        if rests or feed.closing or self._stopping or not feed.queue:
            return
        most = self._limits.connections_per_site
        if feed.strategy.connections:
            most = min(most, feed.strategy.connections)
        wanted = min(math.ceil(len(feed.queue) / 4), most) - len(feed.tasks)
        wanted = min(wanted, self._limits.connections - len(self._slots))
        if wanted <= 0:
            return
        slots = await self._ports.shaper.open_slots(
            feed.path,
            wanted=wanted,
            limit=feed.strategy.connections,
            mail_class=feed.mail_class,
        )
        for slot in slots:
            task = asyncio.create_task(serve(feed, ports=self._ports, told=self))
            feed.tasks.add(task)
            self._slots[task] = (feed.path, slot)
            task.add_done_callback(partial(self._session_ended, feed))

    def _session_ended(self, feed: Feed, task: asyncio.Task[None]) -> None:
        feed.tasks.discard(task)
        slot = self._slots.pop(task)
        self._spawn(self._quietly(self._ports.shaper.close_slots([slot])))
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a session broke on our side", exc_info=error)
            raise error

    async def _retire_if_quiet(self, feed: Feed) -> None:
        """Close a feed that has been dry for a while: drop its bell, look once more, let go."""
        now = self._ports.clock.monotonic()
        rests = max(feed.resting_until, feed.refused_until) > now
        if feed.held:
            feed.dry_since = None
            return
        if feed.dry_since is None:
            feed.dry_since = now
        if now - feed.dry_since < self._limits.linger_s:
            return
        if feed.refused_until > now:
            # No allowance for a while: let the ringer pass this path over until then.
            await self._rest(feed, seconds=feed.refused_until - now, reason="rate")
        await self._ports.shaper.drop_bells([feed.path], mail_class=feed.mail_class)
        if not rests and await self._claim([feed], self._ports.policy.current()):
            feed.dry_since = None
            return
        await self._return_allowance(feed)
        feed.close()
        self._feeds.pop((feed.path, feed.mail_class), None)

    async def _return_allowance(self, feed: Feed) -> None:
        if feed.allowance:
            unused, feed.allowance = len(feed.allowance), type(feed.allowance)()
            rate = rate_of(feed.strategy)
            await self._ports.shaper.return_grant(
                feed.path, unused=unused, rate=rate, ticket=feed.ticket
            )

    async def _keep_bells(self) -> None:
        shaper = self._ports.shaper
        while True:
            await asyncio.sleep(BELL_KEEP_S)
            for mail_class in MailClass:
                paths = [path for path, its in self._feeds if its is mail_class]
                if paths:
                    await self._quietly(shaper.keep_bells(paths, mail_class=mail_class))

    async def _renew_slots(self) -> None:
        while True:
            await asyncio.sleep(SLOT_RENEW_S)
            if not self._slots:
                continue
            try:
                wanted = await self._ports.shaper.renew_slots(list(self._slots.values()))
            except StoreUnavailable as exc:
                log.warning("slots not renewed", extra={"store": exc.store, "reason": exc.reason})
                continue
            for feed in self._feeds.values():
                feed.is_wanted = feed.path in wanted
                feed.arrived.set()

    # ── what sessions tell ───────────────────────────────────────────────────────────────────

    def outcome(self, outcome: Outcome, row: QueuedRow) -> None:
        """Journal an outcome in this very turn, and settle it with the next batch."""
        self._bytes_held -= row.content.length
        try:
            self._ports.journal.outcome(outcome)
        except StoreUnavailable as exc:
            # The dot is journaled: should we die before the settle, the row becomes unknown.
            log.error("outcome not journaled", extra={"store": exc.store, "reason": exc.reason})
        self._settler.add(outcome, row)
        self._kick.set()
        if outcome.verdict is not Verdict.DELIVERED and outcome.scope in (
            Scope.SITE,
            Scope.SOURCE,
        ):
            for feed in self._feeds.values():
                if feed.path.site == row.site and feed.source.id == outcome.source_id:
                    self._back_off(feed, str(outcome.reply))

    def returned(self, row: QueuedRow, *, delay_s: float) -> None:
        """Give a row back that nobody spoke about."""
        self._return_rows([row], delay_s=delay_s)

    def path_failed(self, feed: Feed, error: TransportError) -> None:
        """No session: one row bears the reason, the others go back, the path rests."""
        if feed.ready_sessions:
            # Others work: the receiver limits our connections. Nobody has to wait for that.
            return
        if feed.queue:
            row = feed.queue.popleft().row
            now = self._ports.clock.now()
            stage, reply = error.stage, error.reply
            self.outcome(
                put_off(feed, row, scope=error.scope, reply=reply, stage=stage, now=now), row
            )
        self._back_off(feed, str(error.reply))

    def path_works(self, feed: Feed) -> None:
        """A session was opened: the path is forgiven."""
        self._failures.pop(feed.path, None)

    def is_tls_broken(self, host: str) -> bool:
        """Whether STARTTLS with this host failed within the hour."""
        return self._broken_tls.get(host, -BROKEN_TLS_S) + BROKEN_TLS_S > (
            self._ports.clock.monotonic()
        )

    def note_broken_tls(self, host: str) -> None:
        """Remember a failed handshake."""
        self._broken_tls[host] = self._ports.clock.monotonic()

    # ── small steps ──────────────────────────────────────────────────────────────────────────

    def _back_off(self, feed: Feed, reason: str) -> None:
        """Let the path rest, longer each time, here and in the ringer's eyes."""
        if feed.resting_until > self._ports.clock.monotonic():
            return
        # Kept beyond the feed, which closes while its path rests: the next rest must be longer.
        failures = min(self._failures.get(feed.path, 0), MOST_DOUBLINGS)
        self._failures[feed.path] = failures + 1
        seconds = min(self._limits.cool_first_s * 2.0**failures, self._limits.cool_most_s)
        self._return_rows(feed.drop_queue(), delay_s=0.0)
        self._spawn(self._rest(feed, seconds=seconds, reason=reason))
        feed.resting_until = self._ports.clock.monotonic() + seconds

    async def _rest(self, feed: Feed, *, seconds: float, reason: str) -> None:
        feed.resting_until = self._ports.clock.monotonic() + seconds
        await self._quietly(self._ports.shaper.cool(feed.path, seconds=seconds, reason=reason))

    def _return_rows(self, rows: Sequence[QueuedRow], *, delay_s: float) -> None:
        self._bytes_held -= sum(row.content.length for row in rows)
        self._settler.give_back(rows, delay_s=delay_s)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    @staticmethod
    async def _quietly(work: Awaitable[object]) -> None:
        """Await something that only helps; a store that is away must not stop deliveries."""
        try:
            await work
        except StoreUnavailable as exc:
            log.info("left undone", extra={"store": exc.store, "reason": exc.reason})


def _job(
    feed: Feed, row: QueuedRow, wire: WireMessage, policy: PolicySnapshot, not_before: float
) -> Job:
    """Put together what a session needs to know of a row."""
    tls = tls_mode_for(policy, sender_id=row.sender_id, strategy=feed.strategy)
    if row.tls_need is TlsNeed.REQUIRED:
        tls = TlsMode.REQUIRED
    domain = presented_domain(
        policy, sender_id=row.sender_id, header_from=row.header_from, source=feed.source
    )
    return Job(row, wire, tls, domain, not_before)

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
from collections.abc import Coroutine, Sequence
from dataclasses import replace

from mailcore.bells import DrainBell, Path
from mailcore.envelope import QueuedRow
from mailcore.outcome import MailClass, Outcome, Scope, Verdict
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import StoreUnavailable, TransportError, Undeliverable
from mailcore.shaping.strategy import rate_of
from workers.engines.claim import Claimer
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job, put_off, together
from workers.engines.holding import Holding
from workers.engines.prepare import Keyring, Unready, make_job, prepare, share_key
from workers.engines.rests import Rests, is_about_path
from workers.engines.settle import Settler
from workers.engines.staff import FULL_S, Staff, all_of, quietly
from workers.engines.tls_memory import TlsMemory

# Well within the life of a bell's count, so that only a dead process's bells run out.
BELL_KEEP_S = 2.0
STORE_PAUSE_S = 0.5
# What a message is thought to weigh before the first was seen.
TYPICAL_BYTES = 64 << 10

log = logging.getLogger(__name__)


class Dispatcher:
    """All paths that are active in this process."""

    def __init__(self, ports: DeliverPorts, settler: Settler) -> None:
        self._ports = ports
        self._settler = settler
        self._limits = ports.limits
        self._feeds: dict[tuple[Path, MailClass], Feed] = {}
        self._staff = Staff(ports, self._feeds, self, self._spawn)
        self._claimer = Claimer(ports, settler, self._space, self._room_left, self._open_path)
        self._keyring = Keyring()
        self._kick = asyncio.Event()
        self._stopping = False
        self._bytes_held = 0
        self._typical_bytes = float(TYPICAL_BYTES)
        self._turn = asyncio.Lock()
        self._rests = Rests(ports.limits)
        self.tls = TlsMemory(ports.clock)
        self._chores: set[asyncio.Task[None]] = set()
        self._holding = Holding(ports, settler, self._spawn)

    # ── bells ────────────────────────────────────────────────────────────────────────────────

    async def ring(self, bell: DrainBell) -> None:
        """Make the bell's paths active; return when they are quiet again, or at once on stop."""
        active = [feed for path in bell.paths if (feed := self._activate(path, bell.mail_class))]
        for feed in active:
            feed.bells += 1
        unknown = [path for path in bell.paths if (path, bell.mail_class) not in self._feeds]
        if unknown:
            # A source that is held, or that this snapshot no longer has: the count must not block
            # the path for ever.
            await quietly(self._ports.shaper.drop_bells(unknown, mail_class=bell.mail_class))
        self._kick.set()
        while any(self._feeds.get((f.path, f.mail_class)) is f for f in active):
            await asyncio.sleep(self._limits.linger_s / 2)

    def _activate(self, path: Path, mail_class: MailClass) -> Feed | None:
        """Return the feed of a path, made if need be; None if its source is not of this node."""
        key = (path, mail_class)
        feed = self._feeds.get(key)
        if feed is not None or self._stopping:
            return feed
        policy = self._ports.policy.current()
        source = policy.sources.get(path.source_id)
        if source is None or source.node != self._ports.node or not source.is_active:
            return None
        if self._holding.of_source(source):
            return None
        feed = Feed(path, mail_class, source)
        self._feeds[key] = feed
        return feed

    def _open_path(self, path: Path, mail_class: MailClass) -> bool:
        """Make a path of this node active without a bell; False if it is, or cannot be."""
        return (path, mail_class) not in self._feeds and bool(self._activate(path, mail_class))

    # ── the loop ─────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Claim, feed and close for ever."""
        renewing = [
            asyncio.create_task(self._staff.renew()),
            asyncio.create_task(self._keep_bells()),
        ]
        try:
            while True:
                if not self._feeds:
                    self._kick.clear()
                    await self._kick.wait()
                try:
                    async with self._turn:
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

    async def stop(self, *, within_s: float = float("inf")) -> None:
        """Claim no more, finish what is on the wire, give the rest back, close all sessions and
        give up those that are not open yet; after `within_s` also those that still wait."""
        self._stopping = True
        for feed in self._feeds.values():
            feed.close()
            self._return_rows(feed.drop_queue(), delay_s=0.0)
        # A claim under way brings rows yet.
        async with self._turn:
            pass
        self._staff.stop_opening()
        await self._staff.finish(self._chores, within_s=within_s)
        feeds = list(self._feeds.values())
        self._feeds.clear()
        await quietly(self._drop_bells(feeds))
        await self._settler.flush()

    async def _round(self) -> int:
        policy = self._ports.policy.current()
        for row in self._holding.take_out(self._feeds.values()):
            self.held_back(row)
        claimed = 0
        if self._may_claim():
            wanting = [feed for feed in self._feeds.values() if self._space(feed) > 0]
            claimed = await self._claim(wanting, policy)
        await self._staff.man()
        await self._retire_quiet()
        return claimed

    def _may_claim(self) -> bool:
        is_ours = self._ports.lease.holds() and not self._stopping
        return is_ours and not self._settler.is_stuck

    async def _claim(self, feeds: Sequence[Feed], policy: PolicySnapshot) -> int:
        """Claim for these feeds and start making the rows ready; return how many."""
        # Read before the claim: of rows claimed under a later one, no dot would be sent.
        incarnation = self._ports.lease.number
        assigned = await self._claimer.claim(feeds, policy)
        count, weight = 0, 0
        for feed, rows in assigned:
            feed.preparing += len(rows)
            count += len(rows)
            weight += sum(row.content.length for row in rows)
        self._bytes_held += weight
        if assigned:
            self._typical_bytes = max(1.0, (self._typical_bytes + weight / count) / 2)
            self._spawn(self._prepare(assigned, policy, incarnation))
        return count

    def _space(self, feed: Feed) -> int:
        """How many more rows this feed could hold; its allowance is another matter."""
        now = self._ports.clock.monotonic()
        if feed.closing or max(feed.resting_until, feed.refused_until) > now:
            return 0
        return min(4 * feed.ready_sessions + 16, self._limits.rows_per_path) - feed.held

    def _room_left(self) -> int:
        """How many more rows this process may hold, by their number and by what they weigh."""
        bytes_left = self._limits.bytes_held - self._bytes_held
        if bytes_left <= 0:
            return 0
        rows = self._limits.rows - sum(feed.held for feed in self._feeds.values())
        rows -= self._settler.pending  # they are held until PostgreSQL has their outcomes
        return min(rows, max(1, int(bytes_left / self._typical_bytes)))

    async def _prepare(
        self,
        batches: Sequence[tuple[Feed, Sequence[QueuedRow]]],
        policy: PolicySnapshot,
        incarnation: int,
    ) -> None:
        rows = [row for _, part in batches for row in part]
        try:
            wires = await prepare(rows, policy=policy, ports=self._ports, keyring=self._keyring)
        except Exception as exc:
            # Stores come back; whatever else it was, no row may stay with us unsent.
            is_ours = not isinstance(exc, StoreUnavailable)
            log.error("not made ready", exc_info=is_ours, extra={"reason": str(exc)})
            for feed, part in batches:
                feed.preparing -= len(part)
            self._return_rows(rows, delay_s=5.0)
            return
        ready = iter(wires)
        for feed, part in batches:
            feed.preparing -= len(part)
            jobs = []
            for row in part:
                wire = next(ready)
                if isinstance(wire, Unready):
                    self._not_sent(feed, row, wire)
                elif feed.closing:
                    self.returned(row, delay_s=0.0)
                elif self.is_held(feed, row):
                    self.held_back(row)
                else:
                    not_before = feed.allowance.popleft() if feed.allowance else 0.0
                    jobs.append(make_job(feed, row, wire, policy, incarnation, not_before))
            together(jobs)
            feed.put(jobs)

    def _not_sent(self, feed: Feed, row: QueuedRow, why: Unready) -> None:
        """A row that cannot go on the wire is a reported failure, never silence."""
        log.error("not sent", extra={"row": row.id, "reason": str(why.reply)})
        now = self._ports.clock.now()
        outcome = put_off(feed, row, scope=Scope.MESSAGE, reply=why.reply, stage=why.stage, now=now)
        if why.reply.is_permanent:
            outcome = replace(outcome, verdict=Verdict.BOUNCED)
        self.outcome(outcome, row)

    async def made_7bit(self, feed: Feed, job: Job) -> bool:
        """Convert and sign anew for a server that takes no 8-bit content; see Told."""
        ports, policy, ring = self._ports, self._ports.policy.current(), self._keyring
        rows = [job.row]
        try:
            (wire,) = await prepare(rows, policy=policy, ports=ports, keyring=ring, in_7bit=True)
        except StoreUnavailable as exc:
            log.error("not made ready", extra={"reason": str(exc)})
            feed.landed(job)
            self.returned(job.row, delay_s=5.0)
            return False
        if isinstance(wire, Unready):
            feed.landed(job)
            self._not_sent(feed, job.row, wire)
            return False
        job.wire, job.share = wire, share_key(job.row, policy)
        return True

    # ── the end of a feed ────────────────────────────────────────────────────────────────────

    async def _retire_quiet(self) -> None:
        """Close feeds that have been dry for a while: drop their bells, look once more, let go."""
        now = self._ports.clock.monotonic()
        quiet = []
        for feed in self._feeds.values():
            if feed.held:
                feed.dry_since = None
            elif feed.dry_since is None:
                feed.dry_since = now
            elif now - feed.dry_since >= self._limits.linger_s:
                quiet.append(feed)
        if not quiet:
            return
        # No allowance for a while: let the ringer pass these paths over until then.
        await all_of(
            self._rest(feed, seconds=feed.refused_until - now, reason="rate")
            for feed in quiet
            if feed.refused_until > now
        )
        await self._drop_bells(quiet)
        if self._may_claim():
            looking = [feed for feed in quiet if self._space(feed) > 0]
            await self._claim(looking, self._ports.policy.current())
        for feed in quiet:
            if feed.held:
                feed.dry_since = None
            else:
                feed.close()
                self._feeds.pop((feed.path, feed.mail_class), None)
        await all_of(self._return_allowance(feed) for feed in quiet if not feed.held)

    async def _drop_bells(self, feeds: Sequence[Feed]) -> None:
        """Uncount all bells that made these feeds active."""
        for mail_class in MailClass:
            its = [feed for feed in feeds if feed.mail_class is mail_class]
            paths = [feed.path for feed in its for _ in range(max(1, feed.bells))]
            if paths:
                await self._ports.shaper.drop_bells(paths, mail_class=mail_class)
            for feed in its:
                feed.bells = 0

    async def _return_allowance(self, feed: Feed) -> None:
        if feed.allowance:
            unused, feed.allowance = len(feed.allowance), type(feed.allowance)()
            rate = rate_of(feed.strategy)
            shaper = self._ports.shaper
            await quietly(
                shaper.return_grant(feed.path, unused=unused, rate=rate, ticket=feed.ticket)
            )

    async def _keep_bells(self) -> None:
        shaper = self._ports.shaper
        while True:
            await asyncio.sleep(BELL_KEEP_S)
            for mail_class in MailClass:
                paths = [path for path, its in self._feeds if its is mail_class]
                if paths:
                    await quietly(shaper.keep_bells(paths, mail_class=mail_class))

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
        if is_about_path(outcome):
            for mail_class in MailClass:
                feed = self._feeds.get((Path(outcome.source_id, row.site), mail_class))
                if feed is not None:
                    self._back_off(feed, str(outcome.reply))

    def returned(self, row: QueuedRow, *, delay_s: float) -> None:
        """Give a row back that nobody spoke about."""
        self._return_rows([row], delay_s=delay_s)

    def is_held(self, feed: Feed, row: QueuedRow) -> bool:
        """Whether nothing may begin with this row on this path now."""
        return self._holding.of_row(row, feed.source)

    def held_back(self, row: QueuedRow) -> None:
        """Give a row back because it is held."""
        self._bytes_held -= row.content.length
        self._holding.give_back(row)

    def path_failed(self, feed: Feed, job: Job, error: TransportError) -> None:
        """No session: one row bears the reason, the others go back, the path rests."""
        is_alone = error.scope is Scope.MESSAGE
        if feed.ready_sessions and not is_alone:
            # Others work: the receiver limits our connections. Nobody has to wait for that.
            feed.full_until = self._ports.clock.monotonic() + FULL_S
            return
        bearer = job if feed.take_out(job) else None
        if bearer is None and not is_alone and feed.first is not None:
            # Another session took it meanwhile; somebody has to bear the reason all the same.
            bearer = feed.first
            feed.take_out(bearer)
        if bearer is not None:
            now = self._ports.clock.now()
            stage, reply, row, session = error.stage, error.reply, bearer.row, error.session
            told = put_off(
                feed, row, scope=error.scope, reply=reply, stage=stage, now=now, session=session
            )
            if isinstance(error, Undeliverable):
                told = replace(told, verdict=Verdict.BOUNCED)
            self.outcome(told, row)
        if not is_alone:
            self._back_off(feed, str(error.reply))

    def path_works(self, feed: Feed) -> None:
        """Mail is taken: the path is forgiven."""
        self._rests.forgive(feed.path)

    # ── small steps ──────────────────────────────────────────────────────────────────────────

    def _back_off(self, feed: Feed, reason: str) -> None:
        """Let the path rest, longer each time, here and in the ringer's eyes."""
        if feed.resting_until > self._ports.clock.monotonic():
            return
        seconds = self._rests.next_s(feed.path)
        self._return_rows(feed.drop_queue(), delay_s=0.0)
        self._spawn(self._rest(feed, seconds=seconds, reason=reason))
        feed.resting_until = self._ports.clock.monotonic() + seconds

    async def _rest(self, feed: Feed, *, seconds: float, reason: str) -> None:
        feed.resting_until = self._ports.clock.monotonic() + seconds
        await quietly(self._ports.shaper.cool(feed.path, seconds=seconds, reason=reason))

    def _return_rows(self, rows: Sequence[QueuedRow], *, delay_s: float) -> None:
        self._bytes_held -= sum(row.content.length for row in rows)
        self._settler.give_back(rows, delay_s=delay_s)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

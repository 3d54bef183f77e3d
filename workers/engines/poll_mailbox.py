"""Read the mailboxes that are due: count what came back, tell what it says, delete what is told.

Takes    PollPorts; Pace: how much at a time
Gives    Poller: `poll` (one turn over all mailboxes), `stop`
Raises   nothing; what goes wrong with a mailbox is logged and noted with it, and the others go on
Follows  design.md section 3 step 9, style.md rule 7: a message leaves its mailbox only when what it
         told is committed; read again it tells nothing new

A sitting is one session: it lists, reads a bounded number of messages in batches, commits each
batch, and deletes at its end. Whatever is killed in between, a message is counted once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mailcore.classify.inbound import Inbound, read_inbound
from mailcore.classify.mime import Limits as MimeLimits
from mailcore.classify.replies import CompiledPatterns, compile_patterns
from mailcore.errors import PostfleetError
from mailcore.inbound import Fate, Told, facts_of, tell
from mailcore.policy.model import Mailbox, PolicySnapshot
from mailcore.ports import (
    Clock,
    InboundLedger,
    InboundRecord,
    MailboxError,
    MailboxItem,
    MailboxReader,
    MailboxSession,
    PolicySource,
    SeenState,
    StoreUnavailable,
    Traces,
    Vault,
)

log = logging.getLogger(__name__)
DEFAULT_HEADER = "X-Postfleet-Token"
PRUNE_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is read at a time, and how long a message waits that nothing is known of."""

    batch: int = 100
    sitting: int = 2000
    looked_up: int = 500
    turn_s: float = 60.0
    at_once: int = 4
    message_bytes: int = 256 * 1024
    most_tries: int = 10
    postponed_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PollPorts:
    """What the poller works with."""

    policy: PolicySource
    vault: Vault
    reader: MailboxReader
    inbound: InboundLedger
    traces: Traces
    clock: Clock
    token_ring: Mapping[int, bytes]
    node: str
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One mailbox, and the policy it is read by from beginning to end."""

    mailbox: Mailbox
    policy: PolicySnapshot
    patterns: CompiledPatterns
    headers: frozenset[str]


@dataclass(slots=True)
class _Plan:
    """What one sitting will do: read some, delete those that were told before."""

    unread: list[tuple[MailboxItem, int]] = field(default_factory=list)
    done: list[MailboxItem] = field(default_factory=list)
    is_cut: bool = False


class Poller:
    """Polls the mailboxes of the policy. One of a process; several turns may overlap."""

    def __init__(self, ports: PollPorts) -> None:
        self._ports = ports
        self._stopping = threading.Event()
        self._made: tuple[PolicySnapshot, CompiledPatterns] | None = None
        self._prune_at = float("-inf")

    def stop(self) -> None:
        """End every turn behind the batch it is at."""
        self._stopping.set()

    async def poll(self) -> int:
        """Read every mailbox that is due, a few at once; return how many messages were counted."""
        await self._prune()
        policy = self._ports.policy.current()
        gate = asyncio.Semaphore(self._ports.pace.at_once)
        boxes = [self._one(mailbox, policy, gate) for mailbox in policy.mailboxes.values()]
        return sum(await asyncio.gather(*boxes))

    async def _prune(self) -> None:
        now = self._ports.clock.monotonic()
        if now < self._prune_at:
            return
        self._prune_at = now + PRUNE_EVERY_S
        try:
            await asyncio.to_thread(self._ports.inbound.prune)
        except StoreUnavailable as exc:
            log.warning("mailboxes not pruned", extra={"reason": str(exc)})

    async def _one(self, mailbox: Mailbox, policy: PolicySnapshot, gate: asyncio.Semaphore) -> int:
        async with gate:
            password: bytes | MailboxError
            try:
                password = await self._ports.vault.open(mailbox.secret_ref)
            except (LookupError, PostfleetError) as exc:
                password = MailboxError(f"its password is not to be had: {exc}")
            return await asyncio.to_thread(self.read, mailbox, password, policy)

    def read(self, mailbox: Mailbox, password: bytes | MailboxError, policy: PolicySnapshot) -> int:
        """Read one mailbox if it is due; return how many messages were counted. Blocks."""
        ports = self._ports
        turn = _Turn(mailbox, policy, self._patterns(policy), _headers(policy))
        read, next_in_s, error = 0, mailbox.poll_interval_s, ""
        try:
            if self._stopping.is_set() or not ports.inbound.begin(mailbox.id, node=ports.node):
                return 0
            try:
                deadline = ports.clock.monotonic() + ports.pace.turn_s
                for count, is_more in self._sittings(turn, password):
                    read += count
                    if is_more and (self._stopping.is_set() or ports.clock.monotonic() >= deadline):
                        next_in_s = 0.0
                        break
            except MailboxError as exc:
                error = str(exc)
                _complain(mailbox, error)
            ports.inbound.end(mailbox.id, next_in_s=next_in_s, read=read, error=error)
        except StoreUnavailable as exc:
            # Nothing is lost: what was not committed is in the mailbox still.
            _complain(mailbox, str(exc))
            ports.inbound.abandon(mailbox.id)
        except BaseException:
            ports.inbound.abandon(mailbox.id)
            raise
        if read:
            log.info("mailbox read", extra={"mailbox": mailbox.id, "messages": read})
        return read

    def _sittings(self, turn: _Turn, password: bytes | MailboxError) -> Iterator[tuple[int, bool]]:
        """Yield of each session how many messages it counted, and whether there may be more."""
        if isinstance(password, MailboxError):
            raise password
        is_more = True
        while is_more:
            session = self._ports.reader.open(turn.mailbox, password)
            try:
                count, is_more = self._sit(turn, session)
            finally:
                session.abort()
            yield count, is_more

    def _sit(self, turn: _Turn, session: MailboxSession) -> tuple[int, bool]:
        ports, mailbox = self._ports, turn.mailbox
        plan = self._plan(mailbox, session)
        done, counted = plan.done, 0
        for start in range(0, len(plan.unread), ports.pace.batch):
            if self._stopping.is_set():
                plan.is_cut = True
                break
            ended = self._batch(turn, session, plan.unread[start : start + ports.pace.batch])
            done += ended
            counted += len(ended)
        if done and mailbox.deletes_after_reading:
            session.delete([item.number for item in done])
        session.commit()
        if done and mailbox.deletes_after_reading:
            ports.inbound.forget(mailbox.id, [item.uidl for item in done])
        return counted, plan.is_cut and bool(done)

    def _plan(self, mailbox: Mailbox, session: MailboxSession) -> _Plan:
        """Go through the listing with a bounded part of it in hand."""
        pace, plan = self._ports.pace, _Plan()
        portion: list[MailboxItem] = []
        for item in session.listing():
            if plan.is_cut:
                continue
            portion.append(item)
            if len(portion) >= pace.looked_up:
                self._sort(mailbox, portion, plan)
                portion = []
                plan.is_cut = len(plan.unread) + len(plan.done) >= pace.sitting
        if portion:
            self._sort(mailbox, portion, plan)
        return plan

    def _sort(self, mailbox: Mailbox, portion: Sequence[MailboxItem], plan: _Plan) -> None:
        seen = self._ports.inbound.seen(mailbox.id, [item.uidl for item in portion])
        for item in portion:
            before = seen.get(item.uidl)
            if before is None or before.state is SeenState.DUE:
                plan.unread.append((item, before.tries if before is not None else 0))
            elif before.state is SeenState.DONE and mailbox.deletes_after_reading:
                plan.done.append(item)

    def _batch(
        self, turn: _Turn, session: MailboxSession, items: Sequence[tuple[MailboxItem, int]]
    ) -> list[MailboxItem]:
        """Read some messages and commit what they tell; return those that are done with."""
        ports, mailbox = self._ports, turn.mailbox
        octets = session.fetch(
            [item.number for item, _ in items], most_bytes=ports.pace.message_bytes
        )
        read = [
            (item, tries, self._read_one(turn, each))
            for (item, tries), each in zip(items, octets, strict=True)
            if each is not None
        ]
        wanted = [
            one.token.message_id for _, _, one in read if one.token is not None and one.kind.is_told
        ]
        facts = facts_of(ports.traces.of_messages(wanted)) if wanted else {}
        now_ms = round(ports.clock.now().timestamp() * 1000)
        told = [
            tell(
                one,
                facts,
                patterns=turn.patterns,
                account_id=mailbox.account_id,
                now_ms=now_ms,
                policy_revision=turn.policy.revision,
            )
            for _, _, one in read
        ]
        records = [
            self._record(mailbox, item, tries, one, result)
            for (item, tries, one), result in zip(read, told, strict=True)
        ]
        ports.inbound.record(
            mailbox.id, records, [event for result in told for event in result.events]
        )
        return [
            item
            for (item, _, _), record in zip(read, records, strict=True)
            if record.postponed_s is None
        ]

    def _read_one(self, turn: _Turn, octets: bytes) -> Inbound:
        return read_inbound(
            octets,
            ring=self._ports.token_ring,
            headers=turn.headers,
            purpose=turn.mailbox.purpose,
            limits=MimeLimits(size_bytes=self._ports.pace.message_bytes),
        )

    def _record(
        self, mailbox: Mailbox, item: MailboxItem, tries: int, one: Inbound, told: Told
    ) -> InboundRecord:
        pace, fate = self._ports.pace, told.fate
        if fate is Fate.POSTPONED:
            if tries + 1 < pace.most_tries:
                delay_s = pace.postponed_s * (tries + 1)
                return InboundRecord(item.uidl, one.kind.value, fate.value, delay_s)
            fate = Fate.UNTRACED
        if fate not in (Fate.TOLD, Fate.NOTED):
            log.warning(
                "report not believed",
                extra={
                    "mailbox": mailbox.id,
                    "uidl": item.uidl,
                    "kind": one.kind.value,
                    "fate": fate.value,
                },
            )
        return InboundRecord(item.uidl, one.kind.value, fate.value)

    def _patterns(self, policy: PolicySnapshot) -> CompiledPatterns:
        made = self._made
        if made is None or made[0] is not policy:
            made = self._made = policy, compile_patterns(policy.bounce_patterns)
        return made[1]


def _headers(policy: PolicySnapshot) -> frozenset[str]:
    """What every node calls it: a report may be about mail of another than this one."""
    return frozenset({DEFAULT_HEADER, *(node.fbl_header for node in policy.nodes.values())})


def _complain(mailbox: Mailbox, reason: str) -> None:
    log.warning("mailbox not read", extra={"mailbox": mailbox.id, "reason": reason})

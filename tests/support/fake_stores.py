"""Fakes of our own stores: the ledger in memory with claims and fences, journal, spool."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from mailcore.envelope import ContentRef, QueuedRow
from mailcore.events import Event, decode_lines
from mailcore.holds import HeldLanes
from mailcore.outcome import (
    MailClass,
    Outcome,
    RowState,
    TlsNeed,
    WaitReason,
)
from mailcore.ports import (
    DomainRoute,
    DueLane,
    LaneClaim,
    Settlement,
    StoreUnavailable,
)
from mailcore.ports.queue import NO_LANES
from mailcore.reply import SmtpReply


def _is_left_out(row: QueuedRow, held: HeldLanes) -> bool:
    return (
        row.sender_id in held.senders
        or row.account_id in held.accounts
        or row.campaign_id in held.campaigns
        or row.isp_id in held.isps
    )


@dataclass
class MemoryLedger:
    """The queue in memory, with claims, fences and counts."""

    rows: dict[int, QueuedRow] = field(default_factory=dict)
    due_in_s: dict[int, float] = field(default_factory=dict)
    reasons: dict[int, WaitReason] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    stop_listed: set[tuple[int, str]] = field(default_factory=set)
    strays: list[tuple[int, str]] = field(default_factory=list)
    settles: int = 0
    is_away: bool = False
    lease_is_good: bool = True
    next_incarnation: int = 1
    claims: list[Sequence[LaneClaim]] = field(default_factory=list)
    # What the database says is held, whatever the process under test has heard.
    held_domains: set[str] = field(default_factory=set)
    park_fails: bool = False

    def add(self, *rows: QueuedRow) -> None:
        for each in rows:
            self.rows[each.id] = each

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable("postgresql", "away")

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    async def register(self, *, node: str, process: str, journal: str) -> int:
        self._check()
        self.next_incarnation += 1
        return self.next_incarnation - 1

    async def heartbeat(self, incarnation: int) -> bool:
        self._check()
        return self.lease_is_good

    async def retire(self, incarnation: int) -> None:
        self._check()

    async def try_lead(self, role: str) -> bool:
        self._check()
        return True

    async def due_lanes(
        self, *, limit: int, skip: int = 0, held: HeldLanes = NO_LANES
    ) -> Sequence[DueLane]:
        self._check()
        return self._lanes(lambda r: r.site != "" and not _is_left_out(r, held))[
            skip : skip + limit
        ]

    async def lanes_of_sites(
        self,
        sites: Sequence[str],
        *,
        mail_class: MailClass,
        sender_ids: Sequence[int],
        held: HeldLanes = NO_LANES,
    ) -> Sequence[DueLane]:
        self._check()
        return self._lanes(
            lambda r: r.site in sites and r.mail_class is mail_class and not _is_left_out(r, held)
        )

    def _lanes(self, wanted: Callable[[QueuedRow], bool]) -> list[DueLane]:
        lanes: dict[int, list[QueuedRow]] = {}
        for each in self.rows.values():
            is_due = self.due_in_s.get(each.id, 0.0) <= 0
            if each.state is RowState.WAITING and is_due and wanted(each):
                lanes.setdefault(each.lane_id, []).append(each)
        return [
            DueLane(
                lane_id,
                rows[0].sender_id,
                rows[0].account_id,
                rows[0].campaign_id,
                rows[0].mail_class,
                rows[0].site,
                TlsNeed.POLICY,
                rows[0].isp_id,
                len(rows),
                any(r.attempt for r in rows),
            )
            for lane_id, rows in sorted(lanes.items())
        ]

    async def claim(
        self, requests: Sequence[LaneClaim], *, incarnation: int
    ) -> Sequence[QueuedRow]:
        self._check()
        self.claims.append(requests)
        taken = []
        for request in requests:
            due = [
                r
                for r in self.rows.values()
                if r.lane_id == request.lane_id
                and r.state is RowState.WAITING
                and self.due_in_s.get(r.id, 0.0) <= 0
            ]
            for each in due[: request.budget]:
                leased = replace(each, state=RowState.LEASED, claim_no=each.claim_no + 1)
                self.rows[each.id] = leased
                taken.append(leased)
        return taken

    async def settle(self, settlement: Settlement) -> int:
        self._check()
        self.settles += 1
        changed = 0
        for finish in settlement.finish:
            changed += self.rows.pop(finish.row_id, None) is not None
        for defer in settlement.defer:
            each = self.rows.get(defer.row_id)
            if each is None or each.claim_no != defer.claim_no or each.state != RowState.LEASED:
                continue
            self.rows[each.id] = replace(
                each, state=defer.state, attempt=each.attempt + int(defer.counts_attempt)
            )
            self.due_in_s[each.id] = defer.delay_s
            self.reasons[each.id] = defer.reason
            changed += 1
        if settlement.events:
            self.events.extend(decode_lines(settlement.events))
        return changed

    async def rows_by_id(self, row_ids: Sequence[int]) -> Sequence[QueuedRow]:
        return [self.rows[i] for i in row_ids if i in self.rows]

    async def stopped(self, recipients: Collection[tuple[int, str]]) -> Collection[tuple[int, str]]:
        return self.stop_listed & set(recipients)

    async def return_strays(self, rows: Sequence[QueuedRow], route: DomainRoute) -> int:
        for each in rows:
            self.strays.append((each.id, route.site))
            self.rows.pop(each.id)
        return len(rows)

    async def park(self, rows: Sequence[QueuedRow]) -> int:
        if self.park_fails:
            raise StoreUnavailable("postgresql", "away")
        ours = [
            each
            for each in rows
            if each.recipient.domain in self.held_domains
            and each.id in self.rows
            and self.rows[each.id].claim_no == each.claim_no
        ]
        for each in ours:
            self.rows[each.id] = replace(each, state=RowState.WAITING, site="", isp_id=0)
            self.reasons[each.id] = WaitReason.HELD
        return len(ours)

    async def park_domains(self, domains: Sequence[str]) -> int:
        found = [
            r
            for r in self.rows.values()
            if not r.site
            and r.recipient.domain in self.held_domains.intersection(domains)
            and self.reasons.get(r.id) is not WaitReason.HELD
        ]
        for each in found:
            self.reasons[each.id] = WaitReason.HELD
        return len(found)

    async def unrouted_domains(self, *, limit: int) -> Sequence[str]:
        return sorted(
            {
                r.recipient.domain
                for r in self.rows.values()
                if not r.site and self.reasons.get(r.id) is not WaitReason.HELD
            }
        )

    async def apply_routes(self, routes: Sequence[DomainRoute]) -> int:
        moved = 0
        for route in routes:
            for each in [r for r in self.rows.values() if r.recipient.domain == route.domain]:
                self.rows[each.id] = replace(each, site=route.site, isp_id=route.isp_id)
                moved += 1
        return moved

    async def postpone_domains(
        self, domains: Sequence[str], *, delay_s: float, reply: SmtpReply
    ) -> int:
        late = [r for r in self.rows.values() if r.recipient.domain in domains]
        for each in late:
            self.due_in_s[each.id] = delay_s
            self.reasons[each.id] = WaitReason.DNS
        return len(late)

    async def unrouted_rows(self, domain: str, *, limit: int) -> Sequence[QueuedRow]:
        found = [r for r in self.rows.values() if r.recipient.domain == domain and not r.site]
        return found[:limit]


@dataclass
class MemoryJournal:
    """Journal that remembers what it was told, in order."""

    told: list[tuple[str, int]] = field(default_factory=list)
    live: set[tuple[int, int]] = field(default_factory=set)
    when_told: Callable[[], None] = lambda: None

    def dot(self, row_id: int, claim_no: int) -> None:
        self.told.append(("dot", row_id))
        self.live.add((row_id, claim_no))

    def outcome(self, outcome: Outcome) -> None:
        self.when_told()
        self.told.append(("outcome", outcome.row_id))
        self.live.add((outcome.row_id, outcome.claim_no))

    def forget(self, claims: Sequence[tuple[int, int]]) -> None:
        self.live -= set(claims)


@dataclass
class MemorySpool:
    """Spool whose content is made up, but for what a test says is missing, or is."""

    missing: set[int] = field(default_factory=set)
    content: bytes = b"Subject: x\r\n\r\nhello\r\n"
    # After how many readings it is away.
    away_after: int = 1 << 30

    async def read_many(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        self.away_after -= 1
        if self.away_after < 0:
            raise StoreUnavailable("spool", "away")
        return [None if r.offset in self.missing else self.content for r in refs]

"""The queue in SQL, as the delivery processes use it.

Gives    PgLedger, which implements mailcore.ports.Ledger
Takes    a libpq URL; a LedgerClock that learns the database's time from each heartbeat
Raises   StoreUnavailable
Follows  design.md section 3 steps 2-6

Sessions on a thread each for claims, settles, moves, parking, locks and looks (everything else), so
that a slow claim never holds up a settle. A claim whose answer never came (the line broke, or the
waiting task was cancelled) may have leased rows nobody knows of: this module remembers what it
handed out, and for a while the next claims also return rows of ours that it did not.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import psycopg2

from mailcore.envelope import QueuedRow
from mailcore.holds import HeldLanes
from mailcore.outcome import MailClass, TlsNeed
from mailcore.ports import (
    Defer,
    DomainRoute,
    DueLane,
    LaneClaim,
    Settlement,
    StoreUnavailable,
)
from mailcore.ports.queue import NO_LANES
from mailcore.reply import SmtpReply
from mailio.clock import LedgerClock
from mailio.ledger import arrays, delivery_sql
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import STORE, AsyncSession, Profile, Session
from mailio.ledger.routes import PARKING, Routing
from mailio.ledger.routes import STATEMENTS as ROUTING
from mailio.ledger.rows import to_row
from mailio.ledger.witnessed import Witnessed
from mailio.witness import Witness

_MAX_REPLY = 1000


class PgLedger:
    """The delivery side of the ledger. Use it from one event loop."""

    def __init__(
        self,
        dsn: str,
        *,
        clock: LedgerClock | None = None,
        witness: Witness | None = None,
        statement_timeout_s: float = 15.0,
    ) -> None:
        self.clock = clock if clock is not None else LedgerClock()
        self._timeout_s = statement_timeout_s

        def session(
            role: str, statements: dict[str, str], profile: Profile = Profile.HOT
        ) -> AsyncSession:
            return AsyncSession(
                Session(
                    dsn,
                    role=role,
                    profile=profile,
                    statements=statements,
                    statement_timeout_s=statement_timeout_s,
                )
            )

        self._claims = session("claim", delivery_sql.CLAIMS)
        self._settles = session("settle", delivery_sql.SETTLES)
        self._looks = session("look", delivery_sql.LOOKS)
        # Moving thousands of rows must not keep a heartbeat waiting.
        self._moves = session("route", ROUTING, Profile.CHORE)
        # Nor may it keep a claim waiting that has met rows of a held domain.
        self._parks = session("park", PARKING, Profile.CHORE)
        self._locks = session("lead", {})
        self._leads = Leadership(self._locks.session)
        self._witnessed = Witnessed(dsn, witness) if witness is not None else None
        self._routing = Routing(self._moves.session)
        self._parking = Routing(self._parks.session)
        self._handed_out: dict[int, set[int]] = {}
        self._doubt_until = 0.0

    async def register(self, *, node: str, process: str, journal: str) -> int:
        """Open an incarnation of this process and return its number. A ledger that is older than
        what was seen of it sets its rows aside first."""
        if self._witnessed is not None:
            await self._witnessed.check()
        rows = await self._looks.call("register", (node, process, journal))
        number = int(rows[0][0])
        if self._witnessed is not None and self._handed_out:
            former = arrays.numbers([known for known in self._handed_out if known != number])
            await self._looks.call("leave", (former, process))
        self._handed_out[number] = set()
        return number

    async def heartbeat(self, incarnation: int) -> bool:
        """Renew the lease; False if it was declared dead meanwhile."""

        def beat() -> tuple[float, list[tuple[Any, ...]], float]:
            before = self.clock.monotonic()
            if self._witnessed is None:
                rows = self._looks.session.call("heartbeat", (incarnation,))
            else:
                params = (incarnation, *self._seen())
                rows = self._looks.session.call("witnessed_heartbeat", params)
            return before, rows, self.clock.monotonic()

        before, rows, after = await self._looks.run(beat)
        if rows:
            self.clock.observe(before=before, database=float(rows[0][0]), after=after)
            if self._witnessed is not None:
                self._witnessed.note(beats=int(rows[0][1]), at_s=float(rows[0][0]))
        return bool(rows)

    async def retire(self, incarnation: int) -> None:
        """Close the incarnation; it must hold no rows, or StoreUnavailable says how many."""
        rows = await self._looks.call("retire", (incarnation,))
        if rows[0][0]:
            raise StoreUnavailable(STORE, f"incarnation {incarnation} holds {rows[0][0]} rows")
        self._handed_out.pop(incarnation, None)

    async def try_lead(self, role: str) -> bool:
        """Take or keep a session lock that one process of the fleet may hold at a time."""
        return await self._locks.run(lambda: self._leads.take(role))

    async def due_lanes(
        self, *, limit: int, skip: int = 0, held: HeldLanes = NO_LANES
    ) -> Sequence[DueLane]:
        """Return routed lanes with rows due and not held, those due longest first, after the
        first `skip`."""
        params = (limit, skip, *_held_params(held))
        return [_to_lane(row) for row in await self._looks.call("due_lanes", params)]

    async def lanes_of_sites(
        self,
        sites: Sequence[str],
        *,
        mail_class: MailClass,
        sender_ids: Sequence[int],
        held: HeldLanes = NO_LANES,
    ) -> Sequence[DueLane]:
        """Return lanes of these sites, class and senders with rows due and not held."""
        asked = (arrays.texts(sites), arrays.numbers(sender_ids), mail_class.value)
        rows = await self._looks.call("lanes_of_sites", (*asked, *_held_params(held)))
        return [_to_lane(row) for row in rows]

    async def claim(
        self, requests: Sequence[LaneClaim], *, incarnation: int
    ) -> Sequence[QueuedRow]:
        """Lease up to each lane's budget of due rows and raise their claim number.

        A lane may be named once. Expired rows come too: the engine finishes them.
        """
        wanted = {r.lane_id: r for r in requests if r.budget > 0}.values()
        rows: list[QueuedRow] = []
        is_answered = False
        try:
            if time.monotonic() < self._doubt_until:
                rows += await self._claims.run(lambda: self._recover(incarnation))
            if wanted:
                params = (
                    arrays.numbers([r.lane_id for r in wanted]),
                    arrays.times([r.low for r in wanted], none="-infinity"),
                    arrays.numbers([r.budget for r in wanted]),
                    incarnation,
                    *self._seen(),
                )
                found = await self._claims.run(lambda: self._rows("claim", params, again=False))
                rows += found
            is_answered = True
        finally:
            if not is_answered:
                # What was recovered before is not handed out either, and will be found again.
                self._doubt_until = time.monotonic() + 2 * self._timeout_s
        self._hand_out(rows, incarnation)
        return rows

    async def settle(self, settlement: Settlement) -> int:
        """Apply in one transaction; return how many rows changed.

        Repeating it after an error is harmless: ends have ended, deferrals are fenced, events
        have the same ids.
        """
        params = _settle_params(settlement)
        rows = await self._settles.call("settle", params)
        self._take_back([f.row_id for f in settlement.finish])
        self._take_back([d.row_id for d in settlement.defer])
        return int(rows[0][0])

    async def rows_by_id(self, row_ids: Sequence[int]) -> Sequence[QueuedRow]:
        """Return those of these rows that still exist."""
        return await self._looks.run(
            lambda: [
                to_row(row)
                for row in self._looks.session.call("rows_by_id", (arrays.numbers(row_ids),))
            ]
        )

    async def stopped(self, recipients: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
        """Return which of these (account, recipient hash) pairs are on a stop list now."""
        pairs = list(recipients)
        if not pairs:
            return set()
        rows = await self._looks.call(
            "stopped",
            (
                arrays.numbers([account_id for account_id, _ in pairs]),
                arrays.texts([key for _, key in pairs]),
            ),
        )
        return {(int(account_id), str(key)) for account_id, key in rows}

    async def unrouted_domains(self, *, limit: int) -> Sequence[str]:
        """Return recipient domains that wait for routing and are due, oldest first."""
        return await self._moves.run(lambda: self._routing.domains(limit))

    async def apply_routes(self, routes: Sequence[DomainRoute]) -> int:
        """Move the rows of these domains into lanes of their sites; remember the routes."""
        return await self._moves.run(lambda: self._routing.apply(routes))

    async def postpone_domains(
        self, domains: Sequence[str], *, delay_s: float, reply: SmtpReply
    ) -> int:
        """Let unrouted rows of these domains wait, with the reason DNS gave."""
        text = str(reply)[:_MAX_REPLY]
        return await self._moves.run(lambda: self._routing.postpone(domains, delay_s, text))

    async def unrouted_rows(self, domain: str, *, limit: int) -> Sequence[QueuedRow]:
        """Return unrouted rows of a domain (to finish them when it takes no mail)."""
        return await self._moves.run(lambda: self._routing.rows(domain, limit))

    async def return_strays(self, rows: Sequence[QueuedRow], route: DomainRoute) -> int:
        """Let leased rows whose domain belongs to another site now wait in its lanes, due now.

        Rows that are in a lane of the site already are no strays: they stay leased.
        """
        strays = [row for row in rows if row.site != route.site]
        if not strays or not route.site:
            return 0
        claims = [(row.id, row.claim_no) for row in strays]
        moved = await self._moves.run(lambda: self._routing.return_strays(claims, route))
        self._take_back([row.id for row in strays])
        return moved

    async def park(self, rows: Sequence[QueuedRow]) -> int:
        """Let leased rows of held recipient domains wait, unrouted, with the reason `held`, until
        their hold is over; return how many were still ours and held. The others stay leased."""
        claims = [(row.id, row.claim_no, row.recipient.domain) for row in rows]
        parked = await self._parks.run(lambda: self._parking.park(claims))
        self._take_back(parked)
        return len(parked)

    async def park_domains(self, domains: Sequence[str]) -> int:
        """The same for the unrouted rows of these domains that wait and are due."""
        return await self._moves.run(lambda: self._routing.park_domains(domains))

    def close(self) -> None:
        """Finish what runs and close the connections. Blocks; locks of `try_lead` are lost."""
        work = (self._claims, self._settles, self._looks, self._moves, self._parks)
        for session in (*work, self._locks):
            session.close()
        if self._witnessed is not None:
            self._witnessed.close()

    def _rows(self, name: str, params: Sequence[object], *, again: bool) -> list[QueuedRow]:
        return [to_row(row) for row in self._claims.session.call(name, params, again=again)]

    def _recover(self, incarnation: int) -> list[QueuedRow]:
        """Return rows we lease and never handed out. On the thread of the claims."""
        leased = self._claims.session.call("leased_ids", (incarnation, *self._seen()))
        known = self._handed_out.get(incarnation, set()).copy()
        lost = [int(row[0]) for row in leased if row[0] not in known]
        return self._rows("rows_by_id", (arrays.numbers(lost),), again=True) if lost else []

    def _seen(self) -> tuple[str, int]:
        return self._witnessed.seen if self._witnessed is not None else ("", 0)

    def _hand_out(self, rows: Sequence[QueuedRow], incarnation: int) -> None:
        self._handed_out.setdefault(incarnation, set()).update(row.id for row in rows)

    def _take_back(self, row_ids: Sequence[int]) -> None:
        for known in self._handed_out.values():
            known.difference_update(row_ids)


def _held_params(held: HeldLanes) -> tuple[str, ...]:
    every = (held.senders, held.accounts, held.campaigns, held.isps)
    return tuple(arrays.numbers(ids) for ids in every)


def _to_lane(row: tuple[Any, ...]) -> DueLane:
    return DueLane(
        id=row[0],
        sender_id=row[1],
        account_id=row[2],
        campaign_id=row[3],
        mail_class=MailClass(row[4]),
        site=row[5],
        tls_need=TlsNeed(row[6]),
        isp_id=row[7],
        waiting=row[8],
        has_retries=row[9],
    )


def _settle_params(settlement: Settlement) -> tuple[object, ...]:
    """Return the eleven parameters of the settle statement; ids rise, so that locks do too."""
    ended = {finish.row_id for finish in settlement.finish}
    waits: dict[int, Defer] = {d.row_id: d for d in settlement.defer if d.row_id not in ended}
    defer = [waits[row_id] for row_id in sorted(waits)]
    return (
        arrays.numbers(sorted(ended)),
        arrays.numbers([d.row_id for d in defer]),
        arrays.numbers([d.claim_no for d in defer]),
        arrays.numbers([max(d.delay_s, 0.0) for d in defer]),
        arrays.texts([d.reason.value for d in defer]),
        arrays.texts([d.reply[:_MAX_REPLY] for d in defer]),
        arrays.numbers([d.pinned_source_id for d in defer]),
        arrays.numbers([d.counts_attempt for d in defer]),
        arrays.numbers([d.state.value for d in defer]),
        settlement.event_count,
        psycopg2.Binary(settlement.events),
    )

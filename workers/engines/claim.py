"""Claim rows for a process's active paths, and say which path sends each.

Takes    feeds with space, the policy, holds
Gives    Claimer.claim: (feed, rows) to send; rows that end here go to the settler
Raises   StoreUnavailable when ledger or shaper is away; what was claimed by then goes back
Follows  design.md section 3, steps 3 to 5

Lanes of one site share the room of its feeds by account, then by lane. What may not be sent after
all (expired, of a held domain, stop-listed since it was accepted, gone to another site) is taken
out of the batch here, in one look for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from mailcore.bells import Path
from mailcore.envelope import QueuedRow
from mailcore.events import recipient_hash
from mailcore.holds import HoldSet
from mailcore.outcome import MailClass
from mailcore.policy.lookup import strategy_for
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import DnsStatus, DomainRoute, DueLane, LaneClaim, StoreUnavailable
from mailcore.reply import SmtpReply
from mailcore.routing.held import sources_left
from mailcore.routing.site import Site, relay_site, site_of
from mailcore.routing.source import choose_source
from mailcore.shaping.fair import Demand, share_budget
from mailcore.shaping.strategy import rate_of, slowest
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed
from workers.engines.settle import Settler

STOPPED = SmtpReply.local(550, "5.7.1", "the recipient is on a stop list")
NO_SOURCE_S = 1.0
# A pinned source that is busy, rests or lives on another node is not soon free: to claim and return
# its rows all the time would be all work and no mail.
PINNED_ELSEWHERE_S = 5.0
PINNED_HERE_S = 0.1
ROUTE_S = 300.0

log = logging.getLogger(__name__)

Assigned = list[tuple[Feed, list[QueuedRow]]]


class Claimer:
    """Claims for one process."""

    def __init__(
        self,
        ports: DeliverPorts,
        settler: Settler,
        space: Callable[[Feed], int],
        room: Callable[[], int],
        open_path: Callable[[Path, MailClass], bool],
    ) -> None:
        self._ports = ports
        self._settler = settler
        self._space = space
        self._room_left = room
        self._open_path = open_path
        self._turn = 0

    async def claim(self, feeds: Sequence[Feed], policy: PolicySnapshot) -> Assigned:
        """Claim for these feeds, of whatever classes."""
        assigned: Assigned = []
        holds = self._ports.holds.current()
        left = self._room_left() if holds.everything is None else 0
        for mail_class in MailClass:
            wanting = [feed for feed in feeds if feed.mail_class is mail_class]
            if not wanting or left <= 0:
                continue
            try:
                found = await self._claim_class(wanting, policy, holds, mail_class, left)
            except StoreUnavailable as exc:
                if not assigned:
                    raise
                # What another class claimed a moment ago is ours, and must be sent.
                log.warning("no claim", extra={"store": exc.store, "reason": exc.reason})
                break
            assigned += found
            left -= sum(len(rows) for _, rows in found)
        return assigned

    async def _claim_class(
        self,
        feeds: Sequence[Feed],
        policy: PolicySnapshot,
        holds: HoldSet,
        mail_class: MailClass,
        left: int,
    ) -> Assigned:
        lanes = await self._lanes(feeds, policy, holds, mail_class)
        self._turn += 1
        asking: list[tuple[Feed, int]] = []
        sites: dict[str, list[Feed]] = {}
        start = self._turn % len(feeds)
        for feed in (*feeds[start:], *feeds[:start]):
            waiting = sum(lane.waiting for lane in lanes[id(feed)])
            wanted = min(waiting, left, self._space(feed))
            if wanted > 0:
                asking.append((feed, wanted))
                left -= wanted
                sites.setdefault(feed.path.site, []).append(feed)
        granted = await asyncio.gather(*(self._room(feed, wanted) for feed, wanted in asking))
        room = {id(feed): count for (feed, _), count in zip(asking, granted, strict=True)}
        requests = []
        for _, here in sorted(sites.items()):
            total = sum(room[id(feed)] for feed in here)
            own = {lane.id: lane for feed in here for lane in lanes[id(feed)]}
            demands = [
                Demand(lane.id, lane.account_id, min(lane.waiting, total)) for lane in own.values()
            ]
            shares = share_budget(total, demands, turn=self._turn)
            requests += [LaneClaim(lane_id, budget) for lane_id, budget in shares.items()]
        if not requests:
            return []
        rows = await self._ports.ledger.claim(requests, incarnation=self._ports.lease.number)
        live = await self._sift(rows, policy, holds)
        assigned, pinned = self._assign(live, feeds, room, policy, holds)
        await self._send_on(pinned)
        return assigned

    async def _lanes(
        self, feeds: Sequence[Feed], policy: PolicySnapshot, holds: HoldSet, mail_class: MailClass
    ) -> Mapping[int, list[DueLane]]:
        """Return each feed's lanes, and give it the slowest strategy of who uses it."""
        sources = {
            sender.id: {each.source_id for each in sources_left(policy, holds, sender.pool_id)}
            for sender in policy.senders.values()
        }
        ours = {feed.source.id for feed in feeds}
        lanes: dict[str, list[DueLane]] = {}
        for lane in await self._ports.ledger.lanes_of_sites(
            sorted({feed.path.site for feed in feeds}),
            mail_class=mail_class,
            sender_ids=[sender_id for sender_id, its in sources.items() if its & ours],
            held=holds.lanes(),
        ):
            lanes.setdefault(lane.site, []).append(lane)
        found: dict[int, list[DueLane]] = {}
        for feed in feeds:
            here = [
                lane
                for lane in lanes.get(feed.path.site, ())
                if feed.source.id in sources[lane.sender_id]
            ]
            found[id(feed)] = here
            if here:
                feed.strategy = slowest(
                    strategy_for(
                        policy,
                        sender_id=lane.sender_id,
                        isp_id=lane.isp_id,
                        source_id=feed.source.id,
                    )
                    for lane in here
                )
        return found

    async def _room(self, feed: Feed, room: int) -> int:
        """Return how much of its room a feed may use now; ask for allowance where it is paced."""
        rate = rate_of(feed.strategy)
        if rate.is_unlimited:
            return room
        horizon_s = self._ports.limits.grant_horizon_s
        horizon = max(1, int(rate.count / rate.interval_s * horizon_s))
        feed.forget_stale_allowance(now=self._ports.clock.monotonic())
        missing = min(room, horizon) - len(feed.allowance)
        if missing > 0:
            grant = await self._ports.shaper.grant(
                feed.path, want=missing, rate=rate, mail_class=feed.mail_class
            )
            now = self._ports.clock.monotonic()
            feed.note_grant(grant, now=now)
            if not grant.count and not feed.held:
                feed.refused_until = now + grant.first_s
        return min(room, len(feed.allowance))

    async def _sift(
        self, rows: Sequence[QueuedRow], policy: PolicySnapshot, holds: HoldSet
    ) -> list[QueuedRow]:
        """Take out what may not be sent after all."""
        now = self._ports.clock.now()
        live, held = [], []
        for row in rows:
            if row.expires_at <= now:
                self._settler.expire(row)
            elif holds.of_domain(row.recipient.domain) is not None:
                held.append(row)
            else:
                live.append(row)
        if held:
            await self._settler.park(held)
        if not live:
            return live
        keys = {row.id: (row.account_id, recipient_hash(row.recipient.key)) for row in live}
        try:
            stopped = await self._ports.ledger.stopped(set(keys.values()))
        except StoreUnavailable:
            # They are leased by now, and nobody else knows of them.
            self._settler.give_back(live)
            raise
        routes = await self._routes_now(live, policy)
        kept, lost = [], dict[DomainRoute, list[QueuedRow]]()
        for row, route in zip(live, routes, strict=True):
            if keys[row.id] in stopped:
                self._settler.stop(row, STOPPED)
            elif route is not None and route.site != row.site:
                lost.setdefault(route, []).append(row)
            else:
                kept.append(row)
        for route, gone in lost.items():
            try:
                await self._ports.ledger.return_strays(gone, route)
            except StoreUnavailable as exc:
                log.warning("strays wait", extra={"store": exc.store, "reason": exc.reason})
                self._settler.give_back(gone, delay_s=NO_SOURCE_S)
        return kept

    async def _routes_now(
        self, rows: Sequence[QueuedRow], policy: PolicySnapshot
    ) -> list[DomainRoute | None]:
        """Return where each row's mail goes by now; None for what DNS cannot tell, which is no
        move: the session will meet it."""
        isps, relays = self._settler.rules.isps(), policy.relays
        domains = list({row.recipient.domain for row in rows if row.sender_id not in relays})
        answers = await asyncio.gather(*(self._ports.resolver.mx(domain) for domain in domains))
        by_mx = {
            domain: _route(domain, site_of(domain, answer, isps))
            for domain, answer in zip(domains, answers, strict=True)
            if answer.status is DnsStatus.OK
        }
        routes = []
        for row in rows:
            domain, relay = row.recipient.domain, relays.get(row.sender_id)
            if relay is None:
                routes.append(by_mx.get(domain))
            else:
                routes.append(_route(domain, relay_site(relay, domain, isps)))
        return routes

    def _assign(
        self,
        rows: Sequence[QueuedRow],
        feeds: Sequence[Feed],
        room: dict[int, int],
        policy: PolicySnapshot,
        holds: HoldSet,
    ) -> tuple[Assigned, list[QueuedRow]]:
        """Choose a source for each row, by weight and by what room it has.

        Return also the rows pinned to sources for which there is no feed here.
        """
        pinned: list[QueuedRow] = []
        by_site: dict[str, dict[int, Feed]] = {}
        for feed in feeds:
            if id(feed) in room:
                by_site.setdefault(feed.path.site, {})[feed.source.id] = feed
        assigned: dict[int, tuple[Feed, list[QueuedRow]]] = {}
        for row in rows:
            here = by_site.get(row.site, {})
            allowance = {source_id: float(room[id(feed)]) for source_id, feed in here.items()}
            sender = policy.senders.get(row.sender_id)
            # A pin on a source that is held pins nothing: the others of the pool are for that.
            members = sources_left(policy, holds, sender.pool_id) if sender is not None else ()
            source_id = choose_source(
                members,
                allowance=allowance,
                pinned=row.pinned_source_id,
                draw=self._ports.draw(),
            )
            chosen = here.get(source_id) if source_id is not None else None
            if chosen is None:
                elsewhere = {each.source_id for each in members} - here.keys()
                if row.pinned_source_id in elsewhere:
                    pinned.append(row)
                else:
                    self._settler.give_back([row], delay_s=NO_SOURCE_S)
                continue
            feed = chosen
            room[id(feed)] -= 1
            strategy = strategy_for(
                policy, sender_id=row.sender_id, isp_id=row.isp_id, source_id=feed.source.id
            )
            if strategy.drop:
                self._settler.purge(row, _dropped(strategy.name))
                continue
            assigned.setdefault(id(feed), (feed, []))[1].append(row)
        return list(assigned.values()), pinned

    async def _send_on(self, rows: Sequence[QueuedRow]) -> None:
        """Give rows back that are pinned to a source which is not active here; make it active
        where it lives on this node and does not rest."""
        paths = {
            (Path(row.pinned_source_id, row.site), row.mail_class)
            for row in rows
            if row.pinned_source_id is not None
        }
        if not paths:
            return
        try:
            resting = set(await self._ports.shaper.cooling(sorted({path for path, _ in paths})))
        except StoreUnavailable:
            resting = {path for path, _ in paths}
        soon = {
            path
            for path, mail_class in sorted(paths)
            if path not in resting and self._open_path(path, mail_class)
        }
        for row in rows:
            is_soon = Path(row.pinned_source_id or 0, row.site) in soon
            delay_s = PINNED_HERE_S if is_soon else PINNED_ELSEWHERE_S
            self._settler.give_back([row], delay_s=delay_s)


def _route(domain: str, site: Site) -> DomainRoute:
    return DomainRoute(domain, site.name, site.isp_id, ROUTE_S)


def _dropped(strategy: str) -> SmtpReply:
    return SmtpReply.local(550, "5.7.0", f"the strategy {strategy} destroys mail (drop message)")

"""What is held, and how much waits: what panel, API and command line show of the queue.

Gives    held_now, hold_set, held_senders, Coverage; figures -> Figures,
         names_of
Takes    the holds (one query), the lanes' counts (one query, whatever the queue's size)
Raises   StoreUnavailable

*Held* is derived here as the workers derive it: no row says it, but for parked ones.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import DatabaseError, connection, models, transaction

from control.mta.models import PoolMember
from control.queue.choices import Scope
from control.queue.models import IN_FORCE, Hold
from control.queue.targets import MODELS, with_names
from control.senders.models import Sender
from mailcore import holds as core
from mailcore.holds import HoldScope, HoldSet
from mailcore.ports import StoreUnavailable
from mailcore.rowfilter import RowFilter
from mailio.ledger.groups import GroupBy, GroupTotal, QueueGroups
from mailio.settings import Settings

TIME_LIMIT_S = 3.0
# Of the holds in force: read for a page, and named in its banner.
MOST_READ = 200
SHOWN = 3
# Rows of held domains, by what their lanes are in; the index has no other rows.
_PARKED = """
SELECT {columns} count(*)
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id
 WHERE r.unrouted_domain IS NOT NULL AND r.state = 0 AND r.reason = 'held'
 GROUP BY {columns} ()
"""


@dataclass(frozen=True, slots=True)
class HeldNow:
    """The newest holds in force; `is_more` if there are others."""

    holds: Sequence[Hold]
    is_more: bool

    @property
    def newest(self) -> Sequence[Hold]:
        """Those that every page has room for."""
        return self.holds[:SHOWN]

    @property
    def others(self) -> bool:
        """Whether there are more than that."""
        return len(self.holds) > SHOWN

    def on(self, scope: str, row: models.Model) -> list[Hold]:
        """Return the holds on this very row: wider ones are none of its own."""
        return [
            hold
            for hold in self.holds
            if hold.scope == scope
            and (hold.target == str(row) if scope == Scope.NODE else hold.target_id == row.pk)
        ]


def held_now() -> HeldNow:
    """Return what every page of the panel shows of holds: one query."""
    found = list(with_names(Hold.objects.filter(IN_FORCE)).order_by("-pk")[: MOST_READ + 1])
    return HeldNow(found[:MOST_READ], len(found) > MOST_READ)


def hold_set() -> HoldSet:
    """Return all holds in force, as decisions take them."""
    return HoldSet.of(hold.to_core() for hold in Hold.objects.filter(IN_FORCE))


def held_senders(holds: HoldSet) -> dict[int, core.Hold]:
    """Return the senders whose pool is held, or every active source of it, each with that hold."""
    if not any(of in (HoldScope.POOL, HoldScope.SOURCE) for of, _id in holds.by_id) and not any(
        of is HoldScope.NODE for of, _name in holds.by_name
    ):
        return {}
    by_pool: dict[int, list[core.Hold | None]] = {}
    members = PoolMember.objects.filter(source__is_active=True)
    for pool_id, source_id, node in members.values_list(
        "pool_id", "source_id", "source__node__name"
    ):
        by_pool.setdefault(pool_id, []).append(holds.of_source(source_id, node=node))
    found: dict[int, core.Hold] = {}
    senders = Sender.objects.exclude(pool=None).values_list("pk", "pool_id")
    for sender_id, pool_id in senders:
        of_pool = holds.by_id.get((HoldScope.POOL, pool_id or 0))
        of_sources = by_pool.get(pool_id or 0, [None])
        covered = of_pool or (of_sources[0] if all(of_sources) else None)
        if covered is not None:
            found[sender_id] = covered
    return found


_PARTS = {
    HoldScope.SENDER: GroupBy.SENDER,
    HoldScope.ACCOUNT: GroupBy.ACCOUNT,
    HoldScope.CAMPAIGN: GroupBy.CAMPAIGN,
    HoldScope.ISP: GroupBy.ISP,
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """The holds in force at one moment, ready to be asked lane by lane."""

    holds: HoldSet
    senders: Mapping[int, core.Hold]

    @property
    def parts(self) -> frozenset[GroupBy]:
        """What lanes must be alike in for one hold to cover all of them or none."""
        scopes = {scope for scope, _id in self.holds.by_id}
        parts = {part for scope, part in _PARTS.items() if scope in scopes}
        return frozenset(parts | ({GroupBy.SENDER} if self.senders else set()))

    @classmethod
    def now(cls) -> Coverage:
        """Read them."""
        holds = hold_set()
        return cls(holds, held_senders(holds))

    def of_lane(self, lane: core.Lane, *, domain: str = "") -> core.Hold | None:
        """Return the hold that keeps a lane, or rows of it to a domain, from being sent."""
        if self.holds.is_empty:
            return None
        # Pools are in `senders`, with those that have no source left.
        of_lane = self.holds.of_lane(lane, pool_id=0) or self.senders.get(lane.sender_id)
        return of_lane or (self.holds.of_domain(domain) if domain else None)

    def condition(self) -> tuple[str, list[list[int]]]:
        """Return what is true of held lanes `l`, as SQL with its values."""
        if self.holds.everything is not None:
            return "TRUE", []
        held = self.holds.lanes(held_senders=self.senders)
        parts = {
            "sender_id": held.senders,
            "account_id": held.accounts,
            "campaign_id": held.campaigns,
            "isp_id": held.isps,
        }
        named = {column: list(numbers) for column, numbers in parts.items() if numbers}
        if not named:
            return "FALSE", []
        either = " OR ".join(f"l.{column} = ANY (%s)" for column in named)
        return f"({either})", list(named.values())


@dataclass(frozen=True, slots=True)
class Figure:
    """Rows alike in what was asked for, by state. `held` is the part of `waiting` that a hold
    keeps; `key` has the numbers in the order of the groups."""

    key: tuple[int, ...]
    waiting: int = 0
    held: int = 0
    leased: int = 0
    unknown: int = 0
    next_due_at: datetime | None = None

    @classmethod
    def of(cls, key: tuple[int, ...], parts: Sequence[Figure]) -> Figure:
        """Return the sum; due when the first of them is."""
        if len(parts) == 1 and parts[0].key == key:
            return parts[0]
        return cls(
            key=key,
            waiting=sum(part.waiting for part in parts),
            held=sum(part.held for part in parts),
            leased=sum(part.leased for part in parts),
            unknown=sum(part.unknown for part in parts),
            next_due_at=min((part.next_due_at for part in parts if part.next_due_at), default=None),
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures by group, in the order of their keys, and their sum."""

    groups: Sequence[Figure]
    total: Figure


def figures(group_by: Sequence[GroupBy], wanted: RowFilter) -> Figures:
    """Return how much is queued, by group and state, over the lanes of a filter."""
    coverage = Coverage.now()
    # Parked rows are unrouted: a look at other lanes meets none of them.
    is_with_parked = not wanted.sites or "" in wanted.sites
    parts = [by for by in GroupBy if by in group_by or by in coverage.parts]
    parked = _parked(parts) if coverage.holds.domains and is_with_parked else {}
    found: dict[tuple[int, ...], list[Figure]] = {}
    for one in _groups(os.getpid(), _database_url()).totals(parts, wanted):
        key = _key(one, group_by)
        part = Figure(
            key=key,
            waiting=one.waiting,
            held=_held(one, coverage, parked.get(_key(one, parts), 0)),
            leased=one.leased,
            unknown=one.unknown,
            next_due_at=one.next_due_at,
        )
        found.setdefault(key, []).append(part)
    groups = [Figure.of(key, found[key]) for key in sorted(found)]
    return Figures(groups, Figure.of((), groups))


def _key(one: GroupTotal, parts: Sequence[GroupBy]) -> tuple[int, ...]:
    return tuple(int(getattr(one, by.value)) for by in parts)


def _held(one: GroupTotal, coverage: Coverage, parked: int) -> int:
    # What was not asked for is of no hold, and 0 is the number of nothing that can be held.
    lane = _Lane(one.sender_id or 0, one.account_id or 0, one.campaign_id or 0, one.isp_id or 0)
    return one.waiting if coverage.of_lane(lane) is not None else min(one.waiting, parked)


@dataclass(frozen=True, slots=True)
class _Lane:
    sender_id: int
    account_id: int
    campaign_id: int
    isp_id: int


_NAMED = {
    "sender": HoldScope.SENDER,
    "account": HoldScope.ACCOUNT,
    "campaign": HoldScope.CAMPAIGN,
    "isp": HoldScope.ISP,
}


def names_of(group_by: Sequence[str], found: Sequence[Figure]) -> dict[str, dict[int, str]]:
    """Return what the groups of these figures are called: a query for each kind of group."""
    names: dict[str, dict[int, str]] = {}
    for place, by in enumerate(group_by):
        if by in _NAMED:
            model, name = MODELS[_NAMED[by]]
            keys = {figure.key[place] for figure in found}
            rows = model._default_manager.filter(pk__in=keys)
            names[by] = dict(rows.values_list("pk", name))
    return names


def _parked(parts: Sequence[GroupBy]) -> dict[tuple[int, ...], int]:
    columns = "".join(f"l.{by.value}, " for by in parts)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {int(TIME_LIMIT_S * 1000)}")
            cursor.execute(_PARKED.format(columns=columns))
            return {tuple(row[:-1]): int(row[-1]) for row in cursor.fetchall()}
    except DatabaseError as exc:
        reason = (str(exc).splitlines() or [""])[0]
        raise StoreUnavailable("postgresql", reason) from exc


@functools.lru_cache(maxsize=4)
def _groups(pid: int, url: str) -> QueueGroups:
    """One connection a process; `pid` keeps a forked child from its parent's."""
    return QueueGroups(url, statement_timeout_s=TIME_LIMIT_S)


def _database_url() -> str:
    configured: Settings | None = settings.POSTFLEET
    if configured is None:
        raise StoreUnavailable("settings", "this process has no stores")
    return configured.database_url

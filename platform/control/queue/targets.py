"""What a hold, or a filter of the queue, is aimed at: numbers and names to rows, and back.

Gives    find -> Target; filter_of: a filter in which names stand for numbers; with_names
Raises   TargetUnknown with the reason; FilterError naming the member
Follows  design.md section 8: an actor is told only of rows that control.access lets it see
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from django.db import models
from django.db.models import Case, F, Func, OuterRef, Subquery, Value, When
from django.db.models.functions import Coalesce

from control.access import Actor, scope
from control.accounts.models import Account
from control.mta.models import Isp, Pool
from control.nodes.models import Node, Source
from control.queue.models import Campaign, Hold
from control.senders.models import Sender
from mailcore.address import parse_domain
from mailcore.errors import AddressError, PostfleetError
from mailcore.holds import HoldScope
from mailcore.rowfilter import FilterError, RowFilter

MODELS: Mapping[HoldScope, tuple[type[models.Model], str]] = {
    HoldScope.NODE: (Node, "name"),
    HoldScope.POOL: (Pool, "name"),
    HoldScope.SOURCE: (Source, "address"),
    HoldScope.SENDER: (Sender, "name"),
    HoldScope.ACCOUNT: (Account, "login_name"),
    HoldScope.CAMPAIGN: (Campaign, "label"),
    HoldScope.ISP: (Isp, "name"),
}
# Of a name that is unknown: enough to see what was meant.
MOST_SHOWN = 80
_OF_FILTER = {
    "senders": HoldScope.SENDER,
    "accounts": HoldScope.ACCOUNT,
    "campaigns": HoldScope.CAMPAIGN,
    "isps": HoldScope.ISP,
}


class TargetUnknown(PostfleetError):
    """There is no such row, or not one alone."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a hold is on: a number, or a name for nodes and domains; `owner_id` is the account it
    belongs to."""

    id: int = 0
    name: str = ""
    owner_id: int | None = None


def find(actor: Actor, of: HoldScope, given: object) -> Target:
    """Return the target that a number or a name means."""
    text = str(given).strip() if isinstance(given, int | str) else ""
    if of is HoldScope.EVERYTHING:
        if text:
            raise TargetUnknown("everything has no target: leave it out")
        return Target()
    if not text or isinstance(given, bool):
        raise TargetUnknown(f"say which {of.value}, by number or name")
    if of is HoldScope.DOMAIN:
        try:
            return Target(name=parse_domain(text))
        except AddressError as exc:
            raise TargetUnknown(str(exc)) from exc
    row = _row(actor, of, text)
    if isinstance(row, Isp) and row.is_catch_all:
        raise TargetUnknown(
            f"{row} stands for domains of no ISP, routed or not: hold a domain, or everything"
        )
    owner = row.pk if of is HoldScope.ACCOUNT else getattr(row, "account_id", None)
    if of is HoldScope.NODE:
        return Target(name=str(row))
    return Target(id=row.pk, owner_id=owner)


def _row(actor: Actor, of: HoldScope, text: str) -> Any:
    model, name = MODELS[of]
    rows = scope(actor, model._default_manager.all())
    if text.isdecimal() and text.isascii() and len(text) < 20 and int(text) < 1 << 31:
        by_number = rows.filter(pk=int(text)).first()
        if by_number is not None:
            return by_number
    found = list(rows.filter(**wanted)[:2]) if (wanted := _by_name(of, name, text)) else []
    if len(found) == 1:
        return found[0]
    if found:
        how = "the number, or account/label" if of is HoldScope.CAMPAIGN else "the number"
        raise TargetUnknown(f"several are called {text[:MOST_SHOWN]!r}: say {how}")
    raise TargetUnknown(f"there is no {of.value} {text[:MOST_SHOWN]!r}")


def _by_name(of: HoldScope, name: str, text: str) -> dict[str, Any] | None:
    if "\x00" in text:
        return None
    if of is HoldScope.SOURCE:
        # An address with a zone is none that PostgreSQL could compare.
        if "%" in text:
            return None
        try:
            return {name: str(ip_address(text))}
        except ValueError:
            return None
    # A label is an account's own: acme/orders is one alone.
    account, slash, label = text.partition("/")
    if of is HoldScope.CAMPAIGN and slash:
        owner = Account.objects.filter(login_name=account).values("pk")
        return {name: label, "account_id__in": owner}
    return {name: text}


def filter_of(actor: Actor, given: Mapping[str, Any]) -> RowFilter:
    """Read a filter in which names may stand for numbers. An account's is narrowed to it."""
    plain = dict(given)
    for member, of in _OF_FILTER.items():
        values = plain.get(member)
        if isinstance(values, list | tuple):
            plain[member] = [_number(actor, member, of, each) for each in values]
    found = RowFilter.parse(plain)
    return found if actor.is_admin else confined(found, actor)


def confined(found: RowFilter, actor: Actor) -> RowFilter:
    """Return what of a filter lies within the actor's own account."""
    others = [number for number in found.accounts if number != actor.account_id]
    if others:
        raise FilterError("accounts", f"there is no account {others[0]}")
    # Nobody without an account comes here; if one did, account 0 has no mail.
    return replace(found, everything=False, accounts=(actor.account_id or 0,))


def _number(actor: Actor, member: str, of: HoldScope, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Numbers need no row: mail outlives what it was sent by, and ISP 0 is all domains of none.
    if value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    try:
        return _row(actor, of, value.strip()).pk
    except TargetUnknown as exc:
        raise FilterError(member, str(exc)) from exc


def with_names(holds: models.QuerySet[Hold]) -> models.QuerySet[Hold]:
    """Add `target_name`: what the target is called now, empty if it is gone."""
    whens = []
    for of, (model, name) in MODELS.items():
        if of.is_named:
            continue
        called: Any = F(name)
        if of is HoldScope.SOURCE:
            called = Func(F(name), function="HOST", output_field=models.TextField())
        named = model._default_manager.filter(pk=OuterRef("target_id"))
        whens.append(When(scope=of.value, then=Subquery(named.values_list(called)[:1])))
    shown = Case(*whens, default=F("target"), output_field=models.TextField())
    return holds.annotate(target_name=Coalesce(shown, Value(""), output_field=models.TextField()))

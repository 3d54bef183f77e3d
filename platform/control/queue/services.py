"""Place and release holds.

Gives    check_hold, place_hold, release_hold, author_of
Takes    an actor; what control.access lets it do is all it can do
Raises   HoldRefused with a problem for each thing that is wrong, HoldDenied where it may not
Follows  design.md section 6: workers are told at once, and look every 2 s should Redis be away

An account holds and releases itself and its campaigns. What an operator held it cannot release.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from control.access import Actor, Verb, can
from control.audit.changes import policy_change
from control.queue.models import IN_FORCE, Hold
from control.queue.reasons import ReasonRefused, read_reason
from control.queue.targets import Target, TargetUnknown, find
from mailcore.errors import PostfleetError, Problem
from mailcore.holds import HoldScope
from mailio.holds import announce
from mailio.settings import Settings

# The database keeps years up to 9999: an end in the last of them could lie behind it elsewhere.
LAST_END = datetime(9999, 1, 1, tzinfo=UTC)
OWNED = (HoldScope.ACCOUNT, HoldScope.CAMPAIGN)


class HoldRefused(PostfleetError):
    """A hold that cannot be meant, with all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{one.pointer[1:]}: {one.detail}" for one in problems))
        self.problems = tuple(problems)


class HoldDenied(PostfleetError):
    """The actor may not place or release this hold."""


def author_of(actor: Actor) -> str:
    """Return how a hold names who placed it. No label of an administrator begins like this."""
    return actor.label if actor.is_admin else f"{_mark(actor)}{actor.label}"


def check_hold(
    actor: Actor, *, scope: str, target: object, reason: object, ends_at: datetime | None
) -> Hold:
    """Return the hold that would be placed, or say what is wrong with it."""
    problems: list[Problem] = []
    said = _reason(reason, problems)
    if ends_at is not None and timezone.is_naive(ends_at):
        problems.append(Problem("/ends_at", "invalid_time", "the time needs its offset"))
    elif ends_at is not None and ends_at <= timezone.now():
        problems.append(Problem("/ends_at", "in_the_past", "the end must lie in the future"))
    elif ends_at is not None and ends_at >= LAST_END:
        detail = "the end lies too far: leave it out for a hold until it is released"
        problems.append(Problem("/ends_at", "invalid_time", detail))
    aim = _target(actor, scope, target, problems)
    if problems or aim is None:
        raise HoldRefused(problems)
    hold = Hold(
        scope=scope,
        target_id=aim.id,
        target=aim.name,
        reason=said,
        author=author_of(actor),
        ends_at=ends_at,
    )
    hold.owner_id = aim.owner_id
    if not can(actor, Verb.ADD, hold):
        raise HoldDenied("you may not hold this")
    return hold


def place_hold(
    actor: Actor,
    *,
    scope: str,
    target: object = "",
    reason: object,
    ends_at: datetime | None = None,
) -> Hold:
    """Hold mail from now on, new mail included."""
    hold = check_hold(actor, scope=scope, target=target, reason=reason, ends_at=ends_at)
    with policy_change(actor) as change:
        hold.save(force_insert=True)
        change.created(hold)
        transaction.on_commit(_announce)
    return Hold.objects.get(pk=hold.pk)


def release_hold(actor: Actor, hold: Hold) -> Hold:
    """End a hold now. One that is not in force any more stays as it is."""
    if not can(actor, Verb.CHANGE, hold) or not _is_own(actor, hold):
        raise HoldDenied("this hold was placed by an operator: an account cannot release it")
    with policy_change(actor) as change:
        change.touch(hold)
        Hold.objects.filter(IN_FORCE, pk=hold.pk).update(
            released_at=Now(), released_by=author_of(actor)
        )
        transaction.on_commit(_announce)
    return Hold.objects.get(pk=hold.pk)


def _mark(actor: Actor) -> str:
    return f"account {actor.account_id}, "


def _is_own(actor: Actor, hold: Hold) -> bool:
    return actor.is_admin or hold.author.startswith(_mark(actor))


def _reason(given: object, problems: list[Problem]) -> str:
    try:
        return read_reason(given)
    except ReasonRefused as exc:
        problems.append(Problem("/reason", exc.code, str(exc)))
        return ""


def _target(actor: Actor, scope: str, given: object, problems: list[Problem]) -> Target | None:
    try:
        wanted = HoldScope(scope)
    except ValueError:
        known = ", ".join(each.value for each in HoldScope)
        problems.append(Problem("/scope", "invalid", f"{repr(scope)[:80]} is none of {known}"))
        return None
    if not actor.is_admin and wanted not in OWNED:
        raise HoldDenied("an account may hold itself and its campaigns, and nothing else")
    try:
        return find(actor, wanted, given)
    except TargetUnknown as exc:
        problems.append(Problem("/target", "unknown_target", str(exc)))
        return None


def _announce() -> None:
    configured: Settings | None = settings.POSTFLEET
    if configured is not None:
        announce(configured.redis_url)

"""Number, store, activate and announce snapshots.

Gives    publish, activate, unpin
Takes    the rows of the caller's transaction
Raises   PolicyRefused (the rows make no policy); LookupError for a revision that is not there
Follows  design.md section 6: one active revision; an older one made active is pinned

One advisory lock orders publishers, so that revisions rise in the order of their commits and each
compiles what the one before has committed. While a revision is pinned new ones are stored, not
activated: the newest is what unpinning will bring.
"""

from __future__ import annotations

import functools

from django.conf import settings
from django.db import connection, transaction

from control.access import Actor
from control.audit.changes import policy_change
from control.audit.choices import Action
from control.policy.compiler import compile_policy
from control.policy.models import PolicyRevision
from mailcore.errors import SchemaError
from mailcore.policy import codec
from mailio.snapshots import announce

PUBLISH_LOCK = 0x706F6C69637901


def publish(*, author: str) -> int | None:
    """Compile and, if anything changed, store a new revision; return its number.

    It becomes the active one unless an older one is pinned. Inside the caller's transaction.
    """
    _take_lock()
    encoded = codec.encode(compile_policy())
    newest = PolicyRevision.objects.order_by("-revision").first()
    if newest is not None and newest.digest == encoded.digest:
        return None
    is_pinned = PolicyRevision.objects.filter(is_pinned=True).exists()
    if not is_pinned:
        PolicyRevision.objects.filter(is_active=True).update(is_active=False)
    row = PolicyRevision(
        revision=1 if newest is None else newest.revision + 1,
        digest=encoded.digest,
        schema_version=encoded.schema_version,
        body=encoded.body,
        author=author,
        is_active=not is_pinned,
    )
    row.save(force_insert=True)
    if not is_pinned:
        _announce_on_commit(row.revision)
    return row.revision


def activate(revision: int, *, actor: Actor) -> PolicyRevision:
    """Make a stored revision the active one; pinned, unless it is the newest."""
    with policy_change(actor) as change:
        _take_lock()
        row = PolicyRevision.objects.filter(revision=revision).first()
        if row is None:
            raise LookupError(f"there is no policy revision {revision}")
        _check_readable(row)
        newest = PolicyRevision.objects.order_by("-revision").values_list("revision", flat=True)[0]
        _make_active(row, is_pinned=row.revision != newest)
        change.note(Action.ACTIVATED, row, after={"pinned": row.is_pinned})
    return row


def unpin(*, actor: Actor) -> PolicyRevision | None:
    """Let the fleet follow the rows again; return the revision it goes to, None if not pinned."""
    with policy_change(actor) as change:
        _take_lock()
        pinned = PolicyRevision.objects.filter(is_pinned=True).first()
        if pinned is None:
            return None
        newest = PolicyRevision.objects.order_by("-revision")[0]
        _make_active(newest, is_pinned=False)
        change.note(Action.UNPINNED, newest, before={"revision": pinned.revision})
    return newest


def _make_active(row: PolicyRevision, *, is_pinned: bool) -> None:
    PolicyRevision.objects.filter(is_active=True).update(is_active=False, is_pinned=False)
    row.is_active, row.is_pinned = True, is_pinned
    row.save(update_fields=["is_active", "is_pinned"])
    _announce_on_commit(row.revision)


def _check_readable(row: PolicyRevision) -> None:
    try:
        codec.decode(bytes(row.body), digest=row.digest, revision=row.revision)
    except SchemaError as exc:
        raise LookupError(f"workers could not read it: {exc}") from exc


def _take_lock() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (PUBLISH_LOCK,))


def _announce_on_commit(revision: int) -> None:
    if settings.POSTFLEET is not None:
        url = settings.POSTFLEET.redis_url
        # Best effort: workers poll every two seconds as well.
        transaction.on_commit(functools.partial(announce, url, revision))

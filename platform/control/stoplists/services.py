"""Put addresses on the stop list and take them off, audited.

Gives    normalise, add, remove
Raises   ValidationError naming the field
"""

from __future__ import annotations

from django.core.exceptions import ValidationError

from control.access import Actor
from control.audit.changes import policy_change
from control.stoplists.models import StopEntry
from mailcore.address import ForwardPath
from mailcore.errors import AddressError
from mailcore.events import recipient_hash


def normalise(entry: StopEntry) -> None:
    """Keep the address in the form that is compared, and its hash."""
    try:
        entry.recipient = ForwardPath.parse(entry.recipient).key
    except AddressError as exc:
        raise ValidationError({"recipient": str(exc)}) from exc
    entry.recipient_hash = recipient_hash(entry.recipient)


def add(entry: StopEntry, *, actor: Actor) -> StopEntry:
    """Store an entry; one that is there already is returned as it is."""
    normalise(entry)
    there = StopEntry.objects.filter(
        recipient_hash=entry.recipient_hash, account_id=entry.account_id
    ).first()
    if there is not None:
        return there
    with policy_change(actor) as change:
        entry.save(force_insert=True)
        change.created(entry)
    return entry


def remove(entry: StopEntry, *, actor: Actor) -> None:
    """Delete an entry: the address may be mailed again."""
    with policy_change(actor) as change:
        change.touch(entry)
        entry.delete()

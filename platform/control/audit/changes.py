"""The one way to change rows: audited, compiled, published, or not at all.

Gives    policy_change(actor): a transaction that writes the audit and compiles the policy at its
         end; Change, on which every row is noted before it is touched
Raises   StaleVersion when the row was changed meanwhile; PolicyRefused when the rows make no policy
Follows  style.md rule 8; design.md section 6: at most one revision per transaction

    with policy_change(actor) as change:
        change.touch(pool, expected_version=3)
        pool.name = "bulk"
        pool.save()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.module_loading import import_string

from control.access import Actor
from control.audit.choices import Action
from control.audit.models import AuditEntry
from control.rows import PolicyModel, state_of
from mailcore.errors import PostfleetError

Key = tuple[type[models.Model], Any]
State = dict[str, Any] | None

_current: ContextVar[Change | None] = ContextVar("change", default=None)


class StaleVersion(PostfleetError):
    """The row was changed by somebody else since it was read; `changed_by` says by whom."""

    def __init__(self, row: str, changed_by: str, version: int) -> None:
        super().__init__(f"{row} was changed meanwhile by {changed_by} (now version {version})")
        self.row = row
        self.changed_by = changed_by
        self.version = version


class Change:
    """The rows one transaction touches."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.revision: int | None = None
        self._before: dict[Key, State] = {}
        self._labels: dict[Key, str] = {}
        self._bumped: set[Key] = set()
        self._notes: list[AuditEntry] = []
        self._wants_policy = False

    def touch(self, row: models.Model, *, expected_version: int | None = None) -> None:
        """Note a stored row that is about to be changed or deleted; lock it till the end."""
        key = _key(row)
        if key in self._before and expected_version is None:
            return
        stored = (
            row.__class__._base_manager.select_for_update(of=("self",)).filter(pk=row.pk).first()
        )
        if stored is None:
            raise StaleVersion(_name(row), "somebody who deleted it", 0)
        version = getattr(stored, "version", None)
        if expected_version is not None and version != expected_version:
            raise StaleVersion(_name(stored), _changed_by(stored), version or 0)
        self._before.setdefault(key, state_of(stored))
        self._labels.setdefault(key, str(stored)[:200])
        self._note_policy(row)

    def bump(self, row: models.Model) -> None:
        """Raise the version of a row whose parts (inline rows) change, though it does not."""
        self.touch(row)
        self._bumped.add(_key(row))

    def created(self, row: models.Model) -> None:
        """Note a row that was just stored for the first time."""
        self._before.setdefault(_key(row), None)
        self._note_policy(row)

    def note(
        self, action: Action, row: models.Model, *, before: State = None, after: State = None
    ) -> None:
        """Write an audit entry about what is no column of the row."""
        self._notes.append(self._entry(action, _key(row), str(row), before=before, after=after))
        self._note_policy(row)

    def finish(self) -> None:
        """Compile and publish, then write down what became of the rows noted."""
        models_touched = dict.fromkeys(model for model, _pk in self._before)
        entries = [entry for model in models_touched for entry in self._audit(model)]
        entries += self._notes
        if self._wants_policy:
            publish: Callable[..., int | None] = import_string(settings.POLICY_PUBLISHER)
            self.revision = publish(author=self.actor.label)
        for entry in entries:
            entry.revision = self.revision
        AuditEntry.objects.bulk_create(entries)

    def _audit(self, model: type[models.Model]) -> Iterator[AuditEntry]:
        """Write down what became of the rows of one model; a few queries, however many rows."""
        keys = [key for key in self._before if key[0] is model]
        rows = model._base_manager.in_bulk([pk for _model, pk in keys])
        made, changed = [], []
        for key in keys:
            before, row = self._before[key], rows.get(key[1])
            after = None if row is None else state_of(row)
            if row is not None and before is None:
                made.append(row.pk)
            elif row is not None and (after != before or key in self._bumped):
                changed.append(row.pk)
            if after == before:
                continue
            action = Action.CHANGED
            if before is None:
                action = Action.CREATED
            elif after is None:
                action = Action.DELETED
            label = self._labels.get(key, "") if row is None else str(row)
            yield self._entry(action, key, label, before=before, after=after)
        if issubclass(model, PolicyModel):
            self._sign(model, made=made, changed=changed)

    def _sign(self, model: type[models.Model], *, made: list[Any], changed: list[Any]) -> None:
        """Say who made and changed the rows, and raise the versions of changed ones."""
        who, rows = self.actor.user_id, model._base_manager
        if made and who is not None:
            rows.filter(pk__in=made).update(created_by=who, updated_by=who)
        if changed:
            rows.filter(pk__in=changed).update(
                version=F("version") + 1, updated_at=timezone.now(), updated_by=who
            )

    def _entry(
        self, action: Action, key: Key, label: str, *, before: State, after: State
    ) -> AuditEntry:
        return AuditEntry(
            user_id=self.actor.user_id,
            actor=self.actor.label[:200],
            ip=self.actor.ip,
            action=action,
            object_type=key[0]._meta.label_lower,
            object_id=str(key[1]),
            object_label=label[:200],
            before=before,
            after=after,
        )

    def _note_policy(self, row: models.Model) -> None:
        self._wants_policy = self._wants_policy or getattr(row, "affects_policy", False)


@contextmanager
def policy_change(actor: Actor) -> Iterator[Change]:
    """Run changes in one transaction; inner uses join the outer one, so all compile once."""
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    change = Change(actor)
    mark = _current.set(change)
    try:
        with transaction.atomic():
            yield change
            change.finish()
    finally:
        _current.reset(mark)


def save_new(row: models.Model, *, actor: Actor) -> None:
    """Check and store a new row, audited."""
    row.full_clean()
    with policy_change(actor) as change:
        row.save(force_insert=True)
        change.created(row)


def _key(row: models.Model) -> Key:
    # A logged-in user comes as a lazy object: its class is what it stands for, its type is not.
    return row.__class__, row.pk


def _name(row: models.Model) -> str:
    return f"{row._meta.verbose_name} {row.pk}"


def _changed_by(row: models.Model) -> str:
    return str(getattr(row, "updated_by", None) or "the system")

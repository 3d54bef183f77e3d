"""What every row that operators edit has in common.

Gives    PolicyModel: integer key, version, created and updated at and by, is_system; state_of(row)
Follows  design.md section 9: optimistic locking by `version`; style.md rule 8: models hold
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from control.access import AccessRule


class PolicyModel(models.Model):
    """Base of the rows that people edit. `version` rises with every change.

    `affects_policy` says whether a change compiles a new snapshot; `unaudited` names columns whose
    content must not be copied into the audit.
    """

    access: ClassVar[AccessRule] = AccessRule()
    affects_policy: ClassVar[bool] = True
    unaudited: ClassVar[frozenset[str]] = frozenset()

    id = models.AutoField(_("ID"), primary_key=True)
    version = models.PositiveIntegerField(_("version"), default=1, editable=False)
    is_system = models.BooleanField(
        _("system record"),
        default=False,
        editable=False,
        help_text=_("Comes with the product: may be edited, not deleted."),
    )
    created_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)
    updated_at = models.DateTimeField(_("updated at"), default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("created by"),
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
    )
    updated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("updated by"),
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
    )

    class Meta:
        abstract = True


# What changes with every save says nothing about what was changed.
BOOKKEEPING = frozenset(
    {"version", "created_at", "updated_at", "created_by", "updated_by", "last_used_at"}
)


def state_of(row: models.Model) -> dict[str, Any]:
    """Return a row's columns and many-to-many keys as JSON values, for the audit.

    Columns the model lists in `unaudited` are shown as "set" or "", never with their content.
    """
    hidden: frozenset[str] = getattr(row, "unaudited", frozenset())
    state: dict[str, Any] = {}
    for field in row._meta.concrete_fields:
        if field.name in BOOKKEEPING:
            continue
        value = field.value_from_object(row)
        state[field.name] = ("set" if value else "") if field.name in hidden else _plain(value)
    for relation in row._meta.many_to_many:
        keys = relation.value_from_object(row) if row.pk is not None else []
        state[relation.name] = sorted(_plain(one.pk) for one in keys)
    return state


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, memoryview | bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

"""The audit journal: to look at and search."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from control.audit.models import AuditEntry
from control.panel import EstimatingPaginator, ReadOnlyAdmin


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who changed what, when, from where."""

    paginator = EstimatingPaginator
    list_display = ("id", "at", "actor", "action", "object_type", "object_label", "revision")
    list_display_links = ("id", "object_label")
    list_filter = ("action", "object_type", "at")
    search_fields = ("actor", "object_label", "object_id", "ip")
    date_hierarchy = "at"
    fields = (
        ("at", "actor", "ip"),
        ("action", "object_type", "object_id", "object_label"),
        "revision",
        "difference",
        "state_before",
        "state_after",
    )
    readonly_fields = ("difference", "state_before", "state_after")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """The history link of a row asks by its ID."""
        return lookup == "object_id" or super().lookup_allowed(lookup, value, request)

    @admin.display(description=_("what changed"))
    def difference(self, entry: AuditEntry) -> str:
        """One line per column that changed."""
        before, after = entry.before or {}, entry.after or {}
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        return "\n".join(f"{name}: {before.get(name)!r} → {after.get(name)!r}" for name in names)

    @admin.display(description=_("before"))
    def state_before(self, entry: AuditEntry) -> str | SafeString:
        return _shown(entry.before)

    @admin.display(description=_("after"))
    def state_after(self, entry: AuditEntry) -> str | SafeString:
        return _shown(entry.after)


def _shown(state: Any) -> str | SafeString:
    if state is None:
        return "–"
    return format_html("<pre>{}</pre>", json.dumps(state, indent=1, ensure_ascii=False))

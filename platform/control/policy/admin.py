"""Pages of policy revisions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.panel import ReadOnlyAdmin, actor_of
from control.policy import publisher
from control.policy.models import PolicyAck, PolicyRevision


@admin.register(PolicyRevision)
class PolicyRevisionAdmin(ReadOnlyAdmin):
    """What was published, what is active; go back to one, and follow the rows again."""

    actions = ("activate", "unpin")
    list_display = ("revision", "created_at", "author", "is_active", "is_pinned", "short_digest")
    fields = ("revision", "created_at", "author", "is_active", "is_pinned", "digest")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("body")

    @admin.display(description=_("digest"))
    def short_digest(self, row: PolicyRevision) -> str:
        return row.digest[:12]

    @admin.action(description=_("Activate: pins the fleet to the selected revision"))
    def activate(self, request: HttpRequest, queryset: QuerySet[PolicyRevision]) -> None:
        numbers = list(queryset.values_list("revision", flat=True)[:2])
        if len(numbers) != 1:
            self.message_user(request, _("Select one revision."), messages.ERROR)
            return
        try:
            row = publisher.activate(numbers[0], actor=actor_of(request))
        except LookupError as exc:
            self.message_user(request, str(exc), messages.ERROR)
            return
        said = _("Revision %d is active.") % row.revision
        self.message_user(request, said, messages.SUCCESS)

    @admin.action(description=_("Unpin: the fleet follows the rows again"))
    def unpin(self, request: HttpRequest, queryset: QuerySet[PolicyRevision]) -> None:
        row = publisher.unpin(actor=actor_of(request))
        if row is None:
            self.message_user(request, _("Nothing is pinned."), messages.WARNING)
        else:
            said = _("Revision %d is active.") % row.revision
            self.message_user(request, said, messages.SUCCESS)


@admin.register(PolicyAck)
class PolicyAckAdmin(ReadOnlyAdmin):
    """Which process runs which revision."""

    list_display = ("id", "node", "process", "revision", "at")
    list_display_links = ("id", "process")
    search_fields = ("node", "process")

"""A look at the queue. Holding, releasing and purging come with their own pages."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from control.panel import EstimatingPaginator, ReadOnlyAdmin
from control.queue.models import Campaign, Incarnation, Lane, OutboxRow, Row

FOREVER = 9999


class QueueAdmin(ReadOnlyAdmin):
    """Base: tables that may hold millions of rows."""

    paginator = EstimatingPaginator


@admin.register(Campaign)
class CampaignAdmin(QueueAdmin):
    list_display = ("id", "label", "account_id", "created_at")
    list_display_links = ("id", "label")
    search_fields = ("label",)


@admin.register(Lane)
class LaneAdmin(QueueAdmin):
    list_display = (
        "id",
        "site",
        "sender_id",
        "account_id",
        "mail_class",
        "waiting",
        "leased",
        "unknown",
        "due",
    )
    list_display_links = ("id", "site")
    list_filter = ("mail_class", "tls_need")
    search_fields = ("site",)
    exclude = ("next_due_at",)
    readonly_fields = ("due",)

    @admin.display(description=_("next due at"), ordering="next_due_at")
    def due(self, lane: Lane) -> str:
        """A lane with nothing to do is due in all eternity."""
        if lane.next_due_at.year >= FOREVER:
            return "–"
        return lane.next_due_at.isoformat(sep=" ", timespec="seconds")


@admin.register(Row)
class RowAdmin(QueueAdmin):
    list_display = ("id", "recipient", "state", "reason", "attempt", "due_at", "last_reply")
    list_display_links = ("id", "recipient")
    list_filter = ("state",)
    search_fields = ("message_id__exact",)
    search_help_text = _("By message ID.")


@admin.register(Incarnation)
class IncarnationAdmin(QueueAdmin):
    list_display = ("id", "node", "process", "started_at", "heartbeat_at", "ended_at")
    list_display_links = ("id", "process")
    search_fields = ("node", "process")


@admin.register(OutboxRow)
class OutboxRowAdmin(QueueAdmin):
    list_display = ("id", "created_at", "event_count")

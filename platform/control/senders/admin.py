"""Pages of senders."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.admin_base import PolicyAdmin, PolicyInline, change_of
from control.holdable import Holdable
from control.senders.models import Sender, SenderIspStrategy


class SenderIspStrategyInline(PolicyInline):
    model = SenderIspStrategy
    fields = ("isp", "strategy")


@admin.register(Sender)
class SenderAdmin(Holdable, PolicyAdmin):
    """Delivery configurations. A deleted one is kept, and can be restored."""

    hold_scope = "sender"
    list_display = ("id", "name", "pool", "strategy", "default_rule", "is_deleted")
    list_display_links = ("id", "name")
    list_filter = ("is_deleted", "pool", "tls")
    list_select_related = ("pool", "strategy", "default_rule")
    search_fields = ("name",)
    filter_horizontal = ("accounts",)
    inlines = (SenderIspStrategyInline,)
    actions = ("hold", "delete_selected", "restore")
    fieldsets = (
        (None, {"fields": ("name", "type", "accounts")}),
        (_("From where, how fast"), {"fields": ("pool", "strategy", "default_rule", "tls")}),
        (_("Domains"), {"fields": ("domain_type", "fixed_domain", "return_path_domain")}),
    )

    def remove_row(self, request: HttpRequest, obj: Any) -> None:
        """Mark it deleted: mail that is queued for it still names it."""
        Sender.objects.filter(pk=obj.pk).update(is_deleted=True)

    @admin.action(description=_("Restore selected senders"), permissions=["change"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Sender]) -> None:
        change = change_of(request)
        for sender in queryset.filter(is_deleted=True):
            change.touch(sender)
            Sender.objects.filter(pk=sender.pk).update(is_deleted=False)

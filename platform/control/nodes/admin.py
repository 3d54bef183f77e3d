"""Pages of nodes and sources."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.admin_base import PolicyAdmin, PolicyInline
from control.holdable import Holdable
from control.nodes.models import Node, Source


class SourceInline(PolicyInline):
    model = Source
    fields = ("address", "ehlo_name", "is_active")


@admin.register(Node)
class NodeAdmin(Holdable, PolicyAdmin):
    """Hosts of the fleet."""

    hold_scope = "node"
    list_display = ("id", "name", "host")
    list_display_links = ("id", "name")
    actions = ("hold", "delete_selected")
    search_fields = ("name", "host")
    inlines = (SourceInline,)
    fieldsets = (
        (None, {"fields": ("name", "host")}),
        (
            _("Send module"),
            {
                "fields": (
                    "spool_retention_s",
                    "spool_warn_mb",
                    "spool_stop_mb",
                    "dns_timeout_s",
                    "dns_cache_max_s",
                    "connect_timeout_s",
                    "uses_dane",
                    "uses_mta_sts",
                    "fbl_header",
                    "admin_email",
                    "logs_replies",
                )
            },
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """A node's name is in the names of its queues: it stays."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else ("name", *fields)


@admin.register(Source)
class SourceAdmin(Holdable, PolicyAdmin):
    """Addresses that mail is sent from."""

    hold_scope = "source"
    list_display = ("id", "address", "ehlo_name", "node", "is_active")
    list_display_links = ("id", "address")
    list_filter = ("is_active", "node")
    list_select_related = ("node",)
    actions = ("hold", "delete_selected")
    search_fields = ("address", "ehlo_name")

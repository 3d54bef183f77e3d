"""Pages of sending domains."""

from __future__ import annotations

from django.contrib import admin

from control.admin_base import PolicyAdmin, PolicyInline
from control.domains.models import DkimKey, SendingDomain


class DkimKeyInline(PolicyInline):
    model = DkimKey
    fields = ("selector", "key", "is_active")


@admin.register(SendingDomain)
class SendingDomainAdmin(PolicyAdmin):
    """From domains, who may use them, what signs for them."""

    list_display = ("id", "domain", "return_path_domain")
    list_display_links = ("id", "domain")
    list_filter = (("accounts", admin.RelatedOnlyFieldListFilter),)
    search_fields = ("domain",)
    filter_horizontal = ("accounts",)
    inlines = (DkimKeyInline,)
    fields = ("domain", "return_path_domain", "accounts")

"""The page of the stop list."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.admin_base import PolicyAdmin, VersionedForm
from control.panel import EstimatingPaginator
from control.stoplists import services
from control.stoplists.models import StopEntry


class StopEntryForm(VersionedForm):
    """An address, checked and compared in its stored form."""

    def clean(self) -> dict[str, Any] | None:
        """Refuse what is no address, and one that is listed already."""
        cleaned = super().clean() or self.cleaned_data
        if recipient := cleaned.get("recipient"):
            probe = StopEntry(recipient=recipient)
            services.normalise(probe)
            cleaned["recipient"] = probe.recipient
            there = StopEntry.objects.filter(
                recipient_hash=probe.recipient_hash, account_id=cleaned.get("account_id") or 0
            )
            if there.exclude(pk=self.instance.pk).exists():
                raise ValidationError({"recipient": _("This address is on the list already.")})
        return cleaned


@admin.register(StopEntry)
class StopEntryAdmin(PolicyAdmin):
    """Addresses that must not be mailed."""

    form = StopEntryForm
    paginator = EstimatingPaginator
    list_display = ("id", "recipient", "reason", "account_id", "created_at", "expires_at")
    list_display_links = ("id", "recipient")
    list_filter = ("reason",)
    search_fields = ("recipient__exact", "recipient__startswith")
    fields = ("recipient", "account_id", "reason", "detail", "expires_at")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """An address is one line, though its column is text."""
        if db_field.name == "recipient":
            kwargs["widget"] = AdminTextInputWidget()
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        services.normalise(obj)
        super().save_model(request, obj, form, change)

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        obj.save(update_fields=[*form.fields, "recipient_hash"])

"""Pages of senders."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.admin_base import PolicyAdmin, PolicyInline, VersionedForm, change_of
from control.audit.choices import Action
from control.domains.models import DkimKey
from control.holdable import Holdable
from control.senders import services
from control.senders.choices import RelayAuth
from control.senders.models import Sender, SenderIspStrategy


class SenderForm(VersionedForm):
    """A sender; the password of its relay can be set, never seen."""

    relay_password = forms.CharField(
        label=_("Password or token"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("Stored sealed. Empty: it stays as it is, for the same host and login."),
    )

    @property
    def is_other_relay(self) -> bool:
        """Whether the password that is stored was meant for another host or login."""
        host = self.cleaned_data.get("relay_host", "").strip().strip("[]").lower()
        given = host, self.cleaned_data.get("relay_login", "")
        return given != (self.initial.get("relay_host"), self.initial.get("relay_login"))

    @property
    def logs_in(self) -> bool:
        """Whether the sender needs a password at all."""
        given = self.cleaned_data
        return bool(given.get("uses_relay")) and given.get("relay_auth") != RelayAuth.NONE

    def clean(self) -> dict[str, Any] | None:
        """A login needs a password, and another one at another host."""
        cleaned = super().clean()
        is_kept = bool(self.instance.relay_secret_ref) and not self.is_other_relay
        is_known = is_kept or bool(self.cleaned_data.get("relay_password"))
        if self.logs_in and not is_known and "relay_password" in self.fields:
            self.add_error("relay_password", _("Give the password for the relay."))
        return cleaned


class SenderIspStrategyInline(PolicyInline):
    model = SenderIspStrategy
    fields = ("isp", "strategy")


@admin.register(Sender)
class SenderAdmin(Holdable, PolicyAdmin):
    """Delivery configurations. A deleted one is kept, and can be restored."""

    form = SenderForm
    hold_scope = "sender"
    list_display = ("id", "name", "pool", "strategy", "default_rule", "is_deleted")
    list_display_links = ("id", "name")
    list_filter = ("is_deleted", "pool", "tls")
    list_select_related = ("pool", "strategy", "default_rule")
    search_fields = ("name",)
    filter_horizontal = ("accounts", "dkim_keys")
    inlines = (SenderIspStrategyInline,)
    actions = ("hold", "delete_selected", "restore")
    fieldsets = (
        (None, {"fields": ("name", "type", "accounts")}),
        (_("From where, how fast"), {"fields": ("pool", "strategy", "default_rule", "tls")}),
        (
            _("Domains"),
            {"fields": ("domain_type", "fixed_domain", "return_path_domain", "return_path_mode")},
        ),
        (
            _("SMTP relay"),
            {
                "fields": (
                    "uses_relay",
                    ("relay_host", "relay_port"),
                    ("relay_tls", "relay_verifies"),
                    ("relay_auth", "relay_login", "relay_password"),
                    "relay_allows_clear",
                    "relay_asks_reports",
                )
            },
        ),
        (_("DKIM"), {"fields": ("dkim_keys",)}),
    )

    def create_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        if form.logs_in and form.cleaned_data.get("relay_password"):
            obj.relay_secret_ref = services.new_secret_ref()
        super().create_row(request, obj, form)
        self._keep_password(request, obj, form)

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        if "relay_password" in form.fields:
            if form.is_other_relay or not form.logs_in:
                services.forget_password(obj)
            if form.logs_in and form.cleaned_data["relay_password"] and not obj.relay_secret_ref:
                obj.relay_secret_ref = services.new_secret_ref()
                obj.save(update_fields=["relay_secret_ref"])
        super().update_row(request, obj, form)
        self._keep_password(request, obj, form)

    def _keep_password(self, request: HttpRequest, obj: Any, form: Any) -> None:
        password = form.cleaned_data.get("relay_password")
        if password and form.logs_in:
            services.store_password(obj, password)
            change_of(request).note(Action.REPLACED, obj, after={"relay password": "set"})

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """A key is shown by its domain, which one query brings for all of them."""
        if db_field.name == "dkim_keys":
            kwargs["queryset"] = DkimKey.objects.select_related("sending_domain")
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def remove_row(self, request: HttpRequest, obj: Any) -> None:
        """Mark it deleted: mail that is queued for it still names it. Its password is not kept."""
        services.forget_password(obj)
        Sender.objects.filter(pk=obj.pk).update(is_deleted=True)

    @admin.action(description=_("Restore selected senders"), permissions=["change"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Sender]) -> None:
        change = change_of(request)
        for sender in queryset.filter(is_deleted=True):
            change.touch(sender)
            Sender.objects.filter(pk=sender.pk).update(is_deleted=False)

"""Pages of mailboxes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.admin_base import PolicyAdmin, VersionedForm, change_of
from control.audit.choices import Action
from control.mailboxes import services
from control.mailboxes.choices import Protocol
from control.mailboxes.models import Mailbox, Reading
from control.mailboxes.selectors import reading_of, tally_of
from control.mailboxes.shown import shown_reading


class MailboxForm(VersionedForm):
    """A mailbox; its password can be set, never seen."""

    new_password = forms.CharField(
        label=_("Password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("Stored sealed. Empty: it stays as it is."),
    )

    def clean_new_password(self) -> str:
        """A new mailbox needs a password."""
        password: str = self.cleaned_data["new_password"]
        if not password and self.instance.pk is None:
            raise ValidationError(_("Give the mailbox's password."))
        return password


@admin.register(Mailbox)
class MailboxAdmin(PolicyAdmin):
    """Mailboxes that are read for bounces, complaints and replies."""

    form = MailboxForm
    list_display = (
        "id",
        "name",
        "purpose",
        "read_at",
        "reads_next",
        "what_failed",
        "host",
        "login",
        "account",
        "is_active",
    )
    list_display_links = ("id", "name")
    list_filter = ("purpose", "protocol", "is_active")
    list_select_related = ("account",)
    search_fields = ("name", "host", "login")
    autocomplete_fields = ("account",)
    fields = (
        "name",
        "account",
        "purpose",
        ("protocol", "host", "port", "tls"),
        ("login", "new_password"),
        "folder",
        ("poll_interval_s", "deletes_after_reading"),
        "is_active",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        last = Reading.objects.filter(mailbox_id=OuterRef("pk"))
        found: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .annotate(
                last_read_at=Subquery(last.values("ended_at")[:1]),
                next_read_at=Subquery(last.values("next_at")[:1]),
                last_error=Subquery(last.values("error")[:1]),
            )
        )
        return found

    @admin.display(description=_("read at"), ordering="last_read_at")
    def read_at(self, obj: Any) -> datetime | None:
        """When it was last read."""
        found: datetime | None = obj.last_read_at
        return found

    @admin.display(description=_("next"), ordering="next_read_at")
    def reads_next(self, obj: Any) -> datetime | None:
        """When it is due again; nothing for one that is due now, or that nobody reads."""
        found: datetime | None = obj.next_read_at
        # Before its first reading has ended it is due since ever.
        return found if obj.is_active and found is not None and found.year > 1 else None

    @admin.display(description=_("what failed"), ordering="last_error")
    def what_failed(self, obj: Any) -> str:
        """Why the last reading came to nothing, in the server's words."""
        return str(obj.last_error or "")

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Begin with what can be read, not with IMAP."""
        given: dict[str, Any] = super().get_changeform_initial_data(request)
        return {"protocol": Protocol.POP3.value, "port": 995, **given}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Show above the form what was read."""
        box = context.get("original")
        if box is not None:
            context["reading"] = shown_reading(reading_of(box.pk), tally_of(box.pk))
        return super().render_change_form(request, context, *args, **kwargs)

    def create_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        obj.secret_ref = services.new_secret_ref()
        super().create_row(request, obj, form)
        services.store_password(obj, form.cleaned_data["new_password"])

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        super().update_row(request, obj, form)
        if password := form.cleaned_data["new_password"]:
            services.store_password(obj, password)
            change_of(request).note(Action.REPLACED, obj, after={"password": "set"})

    def remove_row(self, request: HttpRequest, obj: Any) -> None:
        services.forget_password(obj)
        super().remove_row(request, obj)

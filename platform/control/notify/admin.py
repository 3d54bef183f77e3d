"""Pages of alerts, their rules, and system mail."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from control.access import Verb, can
from control.accounts.models import User
from control.admin_base import PolicyAdmin, VersionedForm, change_of
from control.audit.choices import Action
from control.notify import post, services
from control.notify.choices import WATCHED, AlertKind, NoticeKind, NoticeState
from control.notify.letters import figure
from control.notify.models import Alert, AlertRule, Notice, SystemMail
from control.notify.words import sentence
from control.panel import ReadOnlyAdmin, actor_of
from control.secrets import has_secret


class SystemMailForm(VersionedForm):
    """How system mail leaves; the relay's password can be set, never seen."""

    new_password = forms.CharField(
        label=_("Password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("Stored sealed. Empty: it stays as it is."),
    )

    def clean(self) -> dict[str, Any] | None:
        """A login needs its password."""
        cleaned = super().clean()
        if cleaned and cleaned.get("relay_login") and not cleaned.get("new_password"):
            is_stored = has_secret(self.instance.secret_ref)
            if not is_stored:
                self.add_error("new_password", _("Give the password of this login."))
        return cleaned


@admin.register(SystemMail)
class SystemMailAdmin(PolicyAdmin):
    """Who system mail is from and how it leaves."""

    form = SystemMailForm
    actions = ("send_test",)
    list_display = ("email", "way", "last_sent", "last_failure")
    autocomplete_fields = ("account", "sender")
    readonly_fields = ("last_sent", "last_failure")
    fieldsets = (
        (None, {"fields": (("email", "display_name"), "last_sent", "last_failure")}),
        (_("Own path"), {"fields": ("account", "sender")}),
        (
            _("Relay"),
            {
                "fields": (
                    ("relay_host", "relay_port"),
                    ("relay_login", "new_password"),
                    "relay_helo",
                    ("is_insecure", "without_tls"),
                )
            },
        ),
        (_("Alerts"), {"fields": ("alert_to", "remind_after_s")}),
    )

    @admin.display(description=_("leaves by"))
    def way(self, row: SystemMail) -> str:
        """The relay, or our own queue."""
        if not row.email:
            return str(_("not set up: none is sent"))
        return f"{row.relay_host}:{row.relay_port}" if row.relay_host else str(_("own path"))

    @admin.display(description=_("last sent"))
    def last_sent(self, row: SystemMail) -> str:
        """The last one that left."""
        notice = Notice.objects.filter(state=NoticeState.SENT).order_by("-sent_at").first()
        if notice is None or notice.sent_at is None:
            return "–"
        return f"{timezone.localtime(notice.sent_at):%Y-%m-%d %H:%M:%S}: {notice} ({notice.way})"

    @admin.display(description=_("does not leave"))
    def last_failure(self, row: SystemMail) -> str:
        """The last one that failed, and why."""
        notice = Notice.objects.exclude(error="").order_by("-id").first()
        return "–" if notice is None else f"{notice}: {notice.error}"

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        super().update_row(request, obj, form)
        if password := form.cleaned_data["new_password"]:
            services.store_password(obj, password)
            change_of(request).note(Action.REPLACED, obj, after={"password": "set"})

    def has_test_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.CHANGE, SystemMail)

    @admin.action(description=_("Send a test message"), permissions=["test"])
    def send_test(self, request: HttpRequest, queryset: QuerySet[SystemMail]) -> None:
        user = request.user
        own = user.email if isinstance(user, User) else ""
        recipient = own or next(iter(services.operators()), "")
        if not recipient:
            nobody = _("Nobody to send to: enter your contact email address, or where alerts go.")
            self.message_user(request, nobody, messages.ERROR)
            return
        notice = services.test_message(recipient)
        if notice is None:
            not_set_up = _("System mail has no sender address: enter it first.")
            self.message_user(request, not_set_up, messages.ERROR)
            return
        if post.send_now(notice, is_last_try=True):
            self.message_user(request, _left(notice), messages.SUCCESS)
            return
        failed = {"to": recipient, "why": notice.error}
        not_left = _("The test message to %(to)s did not leave. %(why)s") % failed
        self.message_user(request, not_left, messages.ERROR)


def _left(notice: Notice) -> str:
    if notice.message_id:
        return str(
            _(
                "Our own queue has taken the test message to %(to)s. What becomes of it stands "
                "under message %(id)s."
            )
            % {"to": notice.recipient, "id": notice.message_id}
        )
    return str(
        _("The relay %(relay)s has taken the test message to %(to)s.")
        % {"relay": notice.way, "to": notice.recipient}
    )


@admin.register(AlertRule)
class AlertRuleAdmin(PolicyAdmin):
    """When alerts begin and end."""

    actions = None
    list_display = ("__str__", "is_active", "limit", "checked_at", "problem")
    readonly_fields = ("kind", "measured_in", "checked_at", "problem")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show what this kind of alert looks at, and nothing else."""
        fields = ["kind", "is_active", "threshold", "measured_in", "clear_percent"]
        if obj is not None and WATCHED[AlertKind(obj.kind)].is_rate:
            fields += ["window_s", "least_volume"]
        return [*fields, "checked_at", "problem"]

    @admin.display(description=_("threshold"))
    def limit(self, rule: AlertRule) -> str:
        return figure(WATCHED[AlertKind(rule.kind)].measure, rule.threshold)

    @admin.display(description=_("measured in"))
    def measured_in(self, rule: AlertRule) -> str:
        return WATCHED[AlertKind(rule.kind)].measure.value


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """What is wrong, and what was."""

    list_display = ("what", "state", "shown_value", "detail", "since", "cleared_at")
    list_filter = ("state", "kind", ("account", admin.RelatedOnlyFieldListFilter))
    search_fields = ("about", "detail")
    # By their letters: open, watched, over.
    ordering = ("-state", "-id")
    fields = (
        "what",
        "state",
        "account",
        "shown_value",
        "shown_threshold",
        "detail",
        "since",
        "raised_at",
        "seen_at",
        "reminders",
        "cleared_at",
    )

    @admin.display(description=_("what"))
    def what(self, alert: Alert) -> str:
        return sentence(alert)

    @admin.display(description=_("figure"), ordering="value")
    def shown_value(self, alert: Alert) -> str:
        if alert.value is None:
            return "–"
        return figure(WATCHED[AlertKind(alert.kind)].measure, alert.value)

    @admin.display(description=_("threshold"))
    def shown_threshold(self, alert: Alert) -> str:
        return figure(WATCHED[AlertKind(alert.kind)].measure, alert.threshold)


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    """System mail that left, that waits, and that was given up."""

    actions = ("try_again",)
    list_display = (
        "id",
        "kind",
        "recipient",
        "state",
        "failed",
        "tries",
        "created_at",
        "sent_at",
        "way",
    )
    list_display_links = ("id", "kind")
    list_filter = ("state", "kind")
    search_fields = ("recipient", "error", "message_id")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Leave out what people typed who ask for a password: it is no mail yet."""
        return super().get_queryset(request).exclude(kind=NoticeKind.ASKED)

    @admin.display(description=_("what failed"))
    def failed(self, notice: Notice) -> str:
        return Truncator(notice.error).chars(200) or "–"

    def has_again_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.CHANGE, SystemMail)

    @admin.action(description=_("Try selected again now"), permissions=["again"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[Notice]) -> None:
        count = services.try_again(queryset)
        said = _("%d messages are tried again within seconds.") % count
        self.message_user(request, said, messages.SUCCESS)

"""What each system mail says.

Gives    letter_of(notice)
Raises   Undeliverable: there is nobody to tell it any more; NotSent: there is no link to tell
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.urls import reverse
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from control.accounts.models import User
from control.notify.choices import WATCHED, AlertKind, NoticeKind
from control.notify.errors import Undeliverable
from control.notify.letters import Letter, figure, link, link_of, span
from control.notify.models import Alert, Notice


def letter_of(notice: Notice) -> Letter:
    """Return what a notice says now. Links are drawn here, each time anew."""
    return _LETTERS[NoticeKind(notice.kind)](notice)


def sentence(alert: Alert) -> str:
    """Return what is wrong, in one sentence."""
    return str(_SENTENCES[AlertKind(alert.kind)]()) % {"about": alert.about}


def page_of(alert: Alert) -> str:
    """Return the path of the page where to look."""
    kind, number = AlertKind(alert.kind), alert.subject.rpartition(":")[2]
    if kind is AlertKind.MAILBOX:
        return reverse("admin:mailboxes_mailbox_change", args=[number])
    if kind is AlertKind.JOB_FAILED:
        return reverse("admin:jobs_job_change", args=[number])
    return reverse(_PAGES.get(kind, "admin:notify_alert_changelist"))


def figures_of(alert: Alert) -> tuple[tuple[str, str], ...]:
    """Return the figures of an alert, for mail and page."""
    watched = WATCHED[AlertKind(alert.kind)]
    found = [(_("Since"), _moment(alert.since))]
    if alert.value is not None:
        found.append((_("Figure"), figure(watched.measure, alert.value)))
        found.append((_("Threshold"), figure(watched.measure, alert.threshold)))
    if alert.cleared_at is not None:
        found.append((_("Over since"), _moment(alert.cleared_at)))
    if alert.detail:
        found.append((_("Detail"), alert.detail[:1000]))
    return tuple(found)


# --- people ---------------------------------------------------------------------------------------


def _welcome(notice: Notice) -> Letter:
    user = _user_of(notice)
    figures = [(_("Login"), user.username)]
    if user.is_staff:
        figures.append((_("Panel"), link(reverse("admin:index"))))
    return Letter(
        subject=_("Your access to Postfleet"),
        opening=_("You have access to Postfleet. Open this address within %s to set your password.")
        % span(settings.PASSWORD_RESET_TIMEOUT),
        figures=tuple(figures),
        link=_password_link(user),
        closing=(
            _("The address works once. When it has expired, ask who gave you access to send it")
            + _(" again."),
        ),
    )


def _password(notice: Notice) -> Letter:
    user = _user_of(notice)
    return Letter(
        subject=_("Set a new password"),
        opening=_("Somebody, likely you, asked for a new password. Open this address within %s.")
        % span(settings.PASSWORD_RESET_TIMEOUT),
        figures=((_("Login"), user.username),),
        link=_password_link(user),
        closing=(
            _("The address works once. If you did not ask, do nothing: your password stays."),
        ),
    )


def _password_link(user: User) -> str:
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    token = default_token_generator.make_token(user)
    return link(reverse("set_password", args=[uid, token]))


def _user_of(notice: Notice) -> User:
    user = notice.user
    if user is None or not user.is_active or user.email != notice.recipient:
        raise Undeliverable(_("the user is not active any more, or has another address"))
    return user


def _test(notice: Notice) -> Letter:
    return Letter(
        subject=_("Test message"),
        opening=_("This is a test. System mail leaves, and you can read it."),
    )


# --- alerts ---------------------------------------------------------------------------------------


# The others that one look found are told in the same mail; this many by name.
MOST_NAMED = 20


def _alert(notice: Notice, title: str, closing: str, moment: str) -> Letter:
    alert = notice.alert
    if alert is None:
        raise Undeliverable(_("the alert is gone"))
    # People of an account have no page at the panel yet.
    is_ours = alert.account_id is None
    others = _others(alert, moment) if is_ours else ()
    subject = f"{title}: {alert}"
    if others:
        more = ngettext("and %d more", "and %d more", len(others)) % len(others)
        subject = f"{subject} {more}"
    return Letter(
        subject=subject,
        opening=sentence(alert),
        figures=figures_of(alert),
        link=link_of(page_of(alert) if is_ours else ""),
        closing=(*_named(others), closing),
    )


def _others(alert: Alert, moment: str) -> tuple[Alert, ...]:
    """Return those of its kind that were raised, told again or over in the same look."""
    same = {"kind": alert.kind, "account": None, moment: getattr(alert, moment)}
    return tuple(Alert.objects.filter(**same).exclude(pk=alert.pk).order_by("pk"))


def _named(others: tuple[Alert, ...]) -> tuple[str, ...]:
    if not others:
        return ()
    lines = [_("The same of:"), *(one.about for one in others[:MOST_NAMED])]
    if len(others) > MOST_NAMED:
        lines.append(_("and %d more, in the panel") % (len(others) - MOST_NAMED))
    return ("\n".join(lines),)


def _raised(notice: Notice) -> Letter:
    closing = _("You get one more message when this is over.")
    return _alert(notice, _("Alert"), closing, "raised_at")


def _reminder(notice: Notice) -> Letter:
    return _alert(notice, _("Still open"), _("You were told of this before."), "reminded_at")


def _cleared(notice: Notice) -> Letter:
    return _alert(notice, _("Over"), _("This has come to an end."), "cleared_at")


def _moment(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z")


_LETTERS: Mapping[NoticeKind, Callable[[Notice], Letter]] = {
    NoticeKind.WELCOME: _welcome,
    NoticeKind.PASSWORD: _password,
    NoticeKind.TEST: _test,
    NoticeKind.RAISED: _raised,
    NoticeKind.REMINDER: _reminder,
    NoticeKind.CLEARED: _cleared,
}
_PAGES: Mapping[AlertKind, str] = {
    AlertKind.NODE_SILENT: "admin:policy_policyack_changelist",
    AlertKind.NOT_SYNCED: "admin:policy_policyack_changelist",
    AlertKind.MAIL_STUCK: "admin:queue_lane_changelist",
    AlertKind.HARD_BOUNCES: "reports:dashboard",
    AlertKind.SOFT_BOUNCES: "reports:dashboard",
    AlertKind.COMPLAINTS: "reports:dashboard",
    AlertKind.OUTBOX_LAG: "admin:queue_outboxrow_changelist",
    AlertKind.EVENTS_REFUSED: "admin:queue_outboxrow_changelist",
    AlertKind.DISK: "reports:spool",
    AlertKind.QUEUE_FINDINGS: "reports:check",
    AlertKind.SYSTEM_MAIL: "admin:notify_notice_changelist",
}
_SENTENCES: Mapping[AlertKind, Callable[[], str]] = {
    AlertKind.NODE_SILENT: lambda: _("No process of node %(about)s reports."),
    AlertKind.NOT_SYNCED: lambda: _("Node %(about)s does not run the policy in force."),
    AlertKind.MAIL_STUCK: lambda: _("Mail to %(about)s is due and does not leave."),
    AlertKind.HARD_BOUNCES: lambda: _(
        "Of the recipients of %(about)s, more than allowed do not exist (hard bounces)."
    ),
    AlertKind.SOFT_BOUNCES: lambda: _(
        "Of the attempts of %(about)s, more than allowed are put off or refused for now (soft "
        "bounces)."
    ),
    AlertKind.COMPLAINTS: lambda: _("More recipients of %(about)s than allowed complain."),
    AlertKind.OUTBOX_LAG: lambda: _("Events wait to be applied by %(about)s."),
    AlertKind.EVENTS_REFUSED: lambda: _("Events could not be read by %(about)s and lie aside."),
    AlertKind.MAILBOX: lambda: _("The mailbox %(about)s cannot be read."),
    AlertKind.HOLD_FORGOTTEN: lambda: _("A hold is in force for long: %(about)s. Is it forgotten?"),
    AlertKind.JOB_FAILED: lambda: _("The job “%(about)s” failed."),
    AlertKind.DISK: lambda: _(
        "The disk of node %(about)s will soon be full; then no mail is taken."
    ),
    AlertKind.QUEUE_FINDINGS: lambda: _("The queue is not as it must be: %(about)s"),
    AlertKind.SYSTEM_MAIL: lambda: _("System mail does not leave."),
}

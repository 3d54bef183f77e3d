"""What a person may ask the dashboard: a period and filters, checked.

Gives    ReportForm; Question, what it was understood as; GroupForm, for the export
Takes    the query of a GET, who asks, and now
Raises   nothing: the form's errors name field and reason

An account user sees their account, whatever the query says; what belongs to others is not among the
choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from control.access import Actor, scope
from control.accounts.models import Account
from control.mta.models import Isp
from control.queue.models import Campaign
from control.reports.scales import DAY, HOUR, MINUTE, column_step
from control.senders.models import Sender

LONGEST = 92 * DAY
MOST_CAMPAIGNS = 200


class Period(Enum):
    """The periods one click away, and one's own."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    CUSTOM = "custom"

    @property
    def span(self) -> timedelta:
        """How long it is; nothing for one's own."""
        return _SPANS.get(self, timedelta())


_SPANS = {Period.HOUR: HOUR, Period.DAY: DAY, Period.WEEK: 7 * DAY}
PERIODS = [
    (Period.HOUR.value, _("1 hour")),
    (Period.DAY.value, _("24 hours")),
    (Period.WEEK.value, _("7 days")),
    (Period.CUSTOM.value, _("Custom")),
]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: [since, until) in whole columns of `step`, and who it is about."""

    since: datetime
    until: datetime
    step: timedelta
    account_id: int | None = None
    campaign_id: int | None = None
    isp_id: int | None = None
    sender_id: int | None = None

    @property
    def filters(self) -> dict[str, int]:
        """The filters by the names they have in statistics and queue."""
        return {
            name: value
            for name in ("account_id", "campaign_id", "isp_id", "sender_id")
            if (value := getattr(self, name)) is not None
        }


class MomentField(forms.DateTimeField):
    """A moment in UTC, asked for with the browser's own picker."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")

    def clean(self, value: Any) -> Any:
        """Return the moment in UTC, whatever zone Django is in."""
        moment = super().clean(value)
        return moment.astimezone(UTC) if moment is not None else None


class NumberChoiceField(forms.TypedChoiceField):
    """One of some rows, or all of them."""

    def __init__(self, *, label: Any, every: Any) -> None:
        super().__init__(label=label, required=False, coerce=int, empty_value=None)
        self.every = every

    def offer(self, rows: Iterable[tuple[int, Any]]) -> None:
        """Set what can be chosen."""
        self.choices = [("", self.every), *rows]


class ReportForm(forms.Form):
    """Period and filters, in the address of the page: a view can be kept and sent to others."""

    period = forms.ChoiceField(label=_("Period"), choices=PERIODS, required=False)
    since = MomentField(label=_("From (UTC)"), required=False)
    until = MomentField(label=_("To (UTC)"), required=False)
    account = NumberChoiceField(label=_("Account"), every=_("All accounts"))
    campaign = NumberChoiceField(label=_("Campaign"), every=_("All campaigns"))
    isp = NumberChoiceField(label=_("ISP"), every=_("All ISPs"))
    sender = NumberChoiceField(label=_("Sender"), every=_("All senders"))

    def __init__(self, query: Mapping[str, Any], *, actor: Actor, now: datetime) -> None:
        super().__init__(_begun(query, now))
        self._actor, self._now = actor, now
        account_id = actor.account_id
        if actor.is_admin:
            account_id = _number(query.get("account"))
            rows = scope(actor, Account.objects.all()).values_list("id", "login_name")
            self._choices("account").offer(rows)
        else:
            del self.fields["account"]
        self._choices("campaign").offer(
            _campaigns(actor, account_id, _number(query.get("campaign")))
        )
        # The names of mailbox providers are nobody's secret.
        self._choices("isp").offer(_isps())
        senders = scope(actor, Sender.objects.all())
        if account_id is not None:
            senders = senders.filter(accounts=account_id)
        self._choices("sender").offer(senders.order_by("name").values_list("id", "name"))

    def _choices(self, name: str) -> NumberChoiceField:
        field = self.fields[name]
        assert isinstance(field, NumberChoiceField)  # noqa: S101 (declared above)
        return field

    def clean_period(self) -> Period:
        """The last hour, if nothing is asked."""
        return Period(self.cleaned_data["period"] or Period.HOUR.value)

    def clean(self) -> dict[str, Any]:
        """Check one's own period: its ends, their order, its length."""
        data: dict[str, Any] = super().clean() or self.cleaned_data
        if data.get("period") is not Period.CUSTOM:
            return data
        since, until = data.get("since"), data.get("until") or self._now
        if "since" in self.errors or "until" in self.errors:
            return data
        if since is None:
            self.add_error("since", _("Say where the period begins."))
        elif since >= self._now:
            self.add_error("since", _("The period begins in the future."))
        elif until <= since:
            self.add_error("until", _("The period ends before it begins."))
        elif until - since > LONGEST:
            self.add_error("until", _("At most %s days can be shown at once.") % LONGEST.days)
        return data

    @property
    def period_value(self) -> str:
        """The period to be shown as chosen, also while something else is wrong."""
        chosen = self.data.get("period") or Period.HOUR.value
        return chosen if chosen in dict(PERIODS) else Period.HOUR.value

    def question(self) -> Question:
        """Return what a valid form asks. Presets end with the running minute."""
        data = self.cleaned_data
        period: Period = data["period"]
        end = min(data.get("until") or self._now, self._now) if not period.span else self._now
        until = _whole(end + MINUTE - timedelta.resolution, MINUTE)
        since = data["since"] if not period.span else until - period.span
        step = column_step(until - since)
        account_id = data.get("account") if self._actor.is_admin else self._actor.account_id
        return Question(
            since=_whole(since, step),
            until=until,
            step=step,
            account_id=account_id,
            campaign_id=data.get("campaign"),
            isp_id=data.get("isp"),
            sender_id=data.get("sender"),
        )


class GroupForm(forms.Form):
    """What the export of undeliveries is grouped by."""

    group = forms.ChoiceField(
        label=_("Group by"),
        choices=[("from_domain", _("From domain")), ("source_ip", _("Sending IP"))],
        required=False,
    )

    def clean_group(self) -> str:
        """The From domain, if nothing is asked."""
        return self.cleaned_data["group"] or "from_domain"


def _begun(query: Mapping[str, Any], now: datetime) -> Mapping[str, Any]:
    """Return the query; who has just chosen a period of their own begins with the last day."""
    if query.get("period") != Period.CUSTOM.value or "since" in query or "until" in query:
        return query
    ends = {"since": now - DAY, "until": now}
    flat = {name: query.get(name) for name in query}
    return {**flat, **{name: f"{at:%Y-%m-%dT%H:%M}" for name, at in ends.items()}}


def _campaigns(
    actor: Actor, account_id: int | None, wanted: int | None
) -> Iterable[tuple[int, str]]:
    """Return the newest campaigns, and the one that is asked for."""
    rows = scope(actor, Campaign.objects.all())
    if account_id is not None:
        rows = rows.filter(account_id=account_id)
    newest = list(rows.order_by("-id").values_list("id", "label")[:MOST_CAMPAIGNS])
    if wanted is not None and wanted not in dict(newest):
        newest += rows.filter(pk=wanted).values_list("id", "label")
    return newest


def _isps() -> Iterable[tuple[int, str]]:
    rows = Isp.objects.order_by("name").values_list("id", "name", "is_catch_all")
    # The one for all other domains goes by 0 on the wire and in statistics.
    return [(0 if is_catch_all else key, name) for key, name, is_catch_all in rows]


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() else None


def _whole(moment: datetime, step: timedelta) -> datetime:
    width = int(step.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // width * width, UTC)

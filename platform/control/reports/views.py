"""The dashboard, the same without its frame for a refresh, and what can be taken away as CSV.

Gives    DashboardView, FragmentView, RepliesCsvView, UndeliveriesCsvView
Takes    the query of a GET (forms.ReportForm)
Raises   nothing: a wrong question is answered 400 with the field and the reason, a store that is
         away is named on the page (503 for an export)
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views import View

from control.access import Actor
from control.panel import actor_of
from control.reports import selectors
from control.reports.forms import PERIODS, GroupForm, Period, Question, ReportForm
from control.reports.shown import shown
from control.reports.waiting import Waiting, waiting_now
from mailcore.ports import StoreUnavailable

REFRESH_S = 10
# Nothing on these pages is inline or comes from elsewhere; the browser holds us to it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# A spreadsheet takes a text that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ReportView(View):
    """Base: who may look, and at what. Administrators see all, account users their account."""

    http_method_names = ["get", "head", "options"]
    actor: Actor
    now: datetime

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Lead those without a login to it; never let a figure be kept on the way."""
        self.actor = actor_of(request)
        if not self.actor.is_admin and self.actor.account_id is None:
            return redirect_to_login(request.get_full_path(), reverse("admin:login"))
        self.now = timezone.now().astimezone(UTC)
        answer = super().dispatch(request, *args, **kwargs)
        answer["Cache-Control"] = "no-store"
        answer["Content-Security-Policy"] = POLICY
        return answer

    def form(self, query: QueryDict) -> ReportForm:
        """Return the question as a form."""
        return ReportForm(query, actor=self.actor, now=self.now)

    def figures(self, question: Question) -> dict[str, Any]:
        """Return what the fragment shows."""
        report = selectors.report_of(question, now=self.now)
        waiting: Waiting | None = None
        queue_problem = ""
        try:
            waiting = waiting_now(question.filters)
        except StoreUnavailable as exc:
            queue_problem = str(exc)
        return {
            **shown(report, waiting),
            "is_admin": self.actor.is_admin,
            "queue_problem": queue_problem,
            "is_filtered": bool(set(question.filters) - {"account_id"})
            or (self.actor.is_admin and question.account_id is not None),
            "now": self.now,
            "refresh_s": REFRESH_S,
            "query": self.request.GET.urlencode(),
        }


class DashboardView(ReportView):
    """The page. It is whole without JavaScript; the script only refreshes."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show it, or what is wrong with the question."""
        form = self.form(request.GET)
        context = {
            **admin.site.each_context(request),
            "title": _("Dashboard"),
            "form": form,
            "periods": period_links(request.GET, form.period_value),
            "is_custom": form.period_value == Period.CUSTOM.value,
            "fields": shown_fields(form),
        }
        if form.is_valid():
            context.update(self.figures(form.question()))
            return render(request, "reports/dashboard.html", context)
        return render(request, "reports/dashboard.html", context, status=400)


class FragmentView(ReportView):
    """The part of the page that changes."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Return it for the same query as the page."""
        form = self.form(request.GET)
        if not form.is_valid():
            return HttpResponse(str(form.errors.as_text()), status=400, content_type="text/plain")
        return render(request, "reports/fragment.html", self.figures(form.question()))


class _CsvView(ReportView):
    """Base of the exports."""

    name = ""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Return the table as a file."""
        form, group = self.form(request.GET), GroupForm(request.GET)
        if not (form.is_valid() and group.is_valid()):
            text = form.errors.as_text() + group.errors.as_text()
            return HttpResponse(text, status=400, content_type="text/plain")
        question = form.question()
        try:
            table = list(self.table(question, group.cleaned_data["group"]))
        except StoreUnavailable as exc:
            return HttpResponse(
                _("The statistics cannot be read: %s") % (exc if self.actor.is_admin else ""),
                status=503,
                content_type="text/plain",
            )
        span = f"{question.since:%Y%m%dT%H%MZ}-{question.until:%Y%m%dT%H%MZ}"
        return _csv(f"{self.name}-{span}.csv", table)

    def table(self, question: Question, group: str) -> Iterable[Sequence[object]]:
        """Return the rows, the heading first."""
        raise NotImplementedError


class RepliesCsvView(_CsvView):
    """What servers said, the most frequent first."""

    name = "replies"

    def table(self, question: Question, group: str) -> Iterable[Sequence[object]]:
        """Return one row a reply of an ISP."""
        yield [
            *(_("ISP"), _("Outcome"), _("Code"), _("Enhanced status"), _("Class"), _("Rule")),
            *(_("Reply"), _("Amount")),
        ]
        for one in selectors.reply_counts(question):
            yield [
                *(one.isp, one.kind, one.code or "", one.enhanced, one.bounce_class, one.rule),
                *(one.reply, one.events),
            ]


class UndeliveriesCsvView(_CsvView):
    """Where mail did not arrive, and what was said: the reference's report of undeliveries."""

    name = "undeliveries"

    def table(self, question: Question, group: str) -> Iterable[Sequence[object]]:
        """Return one row a From domain or sending IP, domain and text."""
        yield [_("Group by"), _("To domain"), _("Bounce text"), _("Amount")]
        for one in selectors.undelivered(question, group_by=group):
            yield [one.group, one.to_domain, one.reply, one.events]


def _csv(name: str, table: Iterable[Sequence[object]]) -> HttpResponse:
    answer = HttpResponse(
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
    answer.write("\ufeff")  # spreadsheets take a file without it for another encoding
    writer = csv.writer(answer)
    for row in table:
        writer.writerow([_harmless(cell) for cell in row])
    return answer


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def period_links(query: QueryDict, chosen: str) -> list[dict[str, object]]:
    """Return the periods as links that keep the filters."""
    kept = [(key, value) for key, value in query.items() if key not in ("period", "since", "until")]
    return [
        {
            "value": value,
            "label": label,
            "is_chosen": value == chosen,
            "query": urlencode([("period", value), *kept]),
        }
        for value, label in PERIODS
    ]


def shown_fields(form: ReportForm) -> list[Any]:
    names = ["account", "campaign", "isp", "sender"]
    return [form[name] for name in names if name in form.fields]

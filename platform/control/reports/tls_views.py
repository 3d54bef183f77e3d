"""The page of TLS, and what RFC 8460 would report to a domain as JSON.

Gives    TlsView, TlsReportView
Takes    the query of a GET (forms.ReportForm; `domain` and `day`)
Raises   nothing: statistics that are away are named on the page (503 for the JSON), a wrong
         question is answered 400
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from control.fields import clean_domain
from control.reports import charts, scales, tls
from control.reports.forms import Period, Question
from control.reports.views import ReportView, period_links, shown_fields
from mailcore.ports import StoreUnavailable
from mailio.stats.reports import TlsCount

POLICIES = {
    "tlsa": gettext_lazy("DANE"),
    "sts": gettext_lazy("MTA-STS"),
    "no-policy-found": gettext_lazy("none of its own"),
    "operator": gettext_lazy("ours for this domain"),
}


class TlsView(ReportView):
    """How mail was encrypted and why it was not."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show it, or what is wrong with the question."""
        form = self.form(request.GET)
        context = {
            **admin.site.each_context(request),
            "title": _("TLS"),
            "form": form,
            "now": self.now,
            "periods": period_links(request.GET, form.period_value),
            "is_custom": form.period_value == Period.CUSTOM.value,
            "fields": shown_fields(form),
            "is_admin": self.actor.is_admin,
        }
        if not form.is_valid():
            return render(request, "reports/tls.html", context, status=400)
        try:
            context.update(self._figures(form.question()))
        except StoreUnavailable as exc:
            context["problem"] = str(exc)
        return render(request, "reports/tls.html", context)

    def _figures(self, question: Question) -> dict[str, Any]:
        found = tls.tls_figures(question)
        stack = [
            charts.Series("delivered", _("encrypted, nothing failed"), found.well),
            charts.Series("deferred", _("encrypted after a failure"), found.failed_encrypted),
            charts.Series("bounced", _("in clear, or not sent"), found.failed_in_clear),
        ]
        drawn = charts.stacked_columns(
            charts.StackedTime(_("TLS over time"), question.since, question.step, stack)
        )
        return {
            "chart": drawn,
            "is_empty": not any(one.total for one in stack),
            "legend": [(one.kind, one.label, scales.compact(one.total)) for one in stack],
            "failures": [self._row(row, question) for row in found.failures],
            "step": scales.span(question.step),
        }

    def _row(self, row: TlsCount, question: Question) -> dict[str, Any]:
        report = ""
        if self.actor.is_admin:
            # A period ends before its last moment: that of a day is the next one's first.
            day = min(question.until - timedelta(seconds=1), self.now).date()
            query = urlencode({"domain": row.domain, "day": day.isoformat()})
            report = f"{reverse('reports:tls-report')}?{query}"
        return {
            "domain": row.domain,
            "policy": POLICIES.get(row.policy, row.policy),
            "mx_host": row.mx_host or "–",
            "result": row.result,
            "attempts": scales.grouped(row.attempts),
            "in_clear": scales.grouped(row.attempts - row.encrypted),
            "report": report,
        }


class TlsReportView(ReportView):
    """One domain's day, in the form of RFC 8460. Of all accounts, so for administrators alone."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Return the report."""
        if not self.actor.is_admin:
            raise PermissionDenied
        try:
            domain = clean_domain(request.GET.get("domain", ""))
        except ValidationError as exc:
            return _wrong(f"domain: {' '.join(exc.messages)}")
        try:
            day = date.fromisoformat(request.GET.get("day", "") or f"{self.now:%Y-%m-%d}")
        except ValueError:
            return _wrong(_("day: a date like 2026-01-31 is needed here"))
        us = request.get_host().partition(":")[0]
        try:
            report = tls.report_of_domain(domain, day, us=us, now=self.now)
        except StoreUnavailable as exc:
            return HttpResponse(str(exc), status=503, content_type="text/plain")
        answer = JsonResponse(report, json_dumps_params={"indent": 2})
        answer["Content-Disposition"] = f'attachment; filename="{us}!{domain}!{day}.json"'
        return answer


def _wrong(text: str) -> HttpResponse:
    return HttpResponse(text, status=400, content_type="text/plain")

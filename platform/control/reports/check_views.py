"""The page of the check: what is not as it must be in the queue, and when it was looked at.

Gives    CheckView
Raises   nothing: PostgreSQL that is away is named on the page; who is no administrator gets a 403
"""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from control.reports import check
from control.reports.check_shown import shown
from control.reports.views import ReportView
from mailcore.ports import StoreUnavailable


class CheckView(ReportView):
    """Of the whole installation, so for its administrators alone."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show it."""
        if not self.actor.is_admin:
            raise PermissionDenied
        context = {**admin.site.each_context(request), "title": _("Queue check"), "now": self.now}
        try:
            context |= shown(check.standing(), check.ended(), check.checks(), check.ages())
        except StoreUnavailable as exc:
            context["problem"] = str(exc)
        return render(request, "reports/check.html", context)

"""The page of the spools: what lies on each node, what keeps it, and when its disk is full.

Gives    SpoolView
Raises   nothing: PostgreSQL that is away is named on the page; who is no administrator gets a 403
"""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from control.reports import spool
from control.reports.spool_shown import shown
from control.reports.views import ReportView
from mailcore.ports import StoreUnavailable


class SpoolView(ReportView):
    """Of the whole installation, so for its administrators alone."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show it."""
        if not self.actor.is_admin:
            raise PermissionDenied
        context = {**admin.site.each_context(request), "title": _("Spool"), "now": self.now}
        try:
            nodes = spool.spool_nodes()
            context["nodes"] = shown(nodes, spool.history(), now=self.now)
            context["silent"] = spool.silent_nodes()
            context["no_content"] = spool.no_content_count()
        except StoreUnavailable as exc:
            context["problem"] = str(exc)
        return render(request, "reports/spool.html", context)

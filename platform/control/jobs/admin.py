"""The page of jobs: watch and stop."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.access import Verb, can
from control.admin_base import PolicyAdmin
from control.jobs import services
from control.jobs.models import Job
from control.panel import actor_of


@admin.register(Job)
class JobAdmin(PolicyAdmin):
    """Background work."""

    list_display = ("id", "title", "kind", "state", "progress", "account", "created_at")
    list_display_links = ("id", "title")
    list_filter = ("state", "kind")
    list_select_related = ("account",)
    search_fields = ("title",)
    actions = ("request_stop", "delete_selected")

    @admin.display(description=_("progress"))
    def progress(self, job: Job) -> str:
        return f"{job.done_count:,}" + (f" / {job.total_count:,}" if job.total_count else "")

    def has_stop_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.DELETE, Job)

    @admin.action(description=_("Stop selected jobs"), permissions=["stop"])
    def request_stop(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        for job in queryset:
            services.request_stop(job, actor=actor_of(request))

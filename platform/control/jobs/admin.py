"""The page of jobs: watch, stop, undo."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from control.access import Verb, can
from control.admin_base import PolicyAdmin
from control.jobs import services
from control.jobs.choices import JobState
from control.jobs.models import Job
from control.jobs.shown import bar, table
from control.jobs.undo import undo_of
from control.panel import actor_of
from mailcore.errors import PostfleetError

_OVER = frozenset({JobState.DONE, JobState.FAILED, JobState.STOPPED})


@admin.register(Job)
class JobAdmin(PolicyAdmin):
    """Background work."""

    list_display = ("id", "title", "state", "progress", "account", "created_by", "created_at")
    list_display_links = ("id", "title")
    list_filter = ("state", "kind")
    list_select_related = ("account", "created_by")
    search_fields = ("title",)
    actions = ("request_stop", "undo", "delete_selected")
    fields = (
        "title",
        "kind",
        "state",
        "progress",
        "error",
        "result_shown",
        "undo_shown",
        "arguments_shown",
        "stop_requested",
        "account",
        "created_by",
        "created_at",
        "started_at",
        "heartbeat_at",
        "finished_at",
    )
    readonly_fields = ("progress", "result_shown", "undo_shown", "arguments_shown")

    @admin.display(description=_("progress"))
    def progress(self, job: Job) -> SafeString:
        return bar(job.done_count, job.total_count, is_over=job.state in _OVER)

    @admin.display(description=_("result"))
    def result_shown(self, job: Job) -> SafeString:
        return table(job.result)

    @admin.display(description=_("asked for"))
    def arguments_shown(self, job: Job) -> SafeString:
        return table(job.arguments)

    @admin.display(description=_("undo"))
    def undo_shown(self, job: Job) -> str:
        """Say how to undo it, or why that cannot be."""
        undo = undo_of(job.kind)
        if undo is None:
            return str(_("Jobs of this kind are for good."))
        how = _("Select it in the list of jobs and choose the action “Undo selected jobs”.")
        return undo.why_not(job) or str(how)

    def has_stop_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.DELETE, Job)

    @admin.action(description=_("Stop selected jobs"), permissions=["stop"])
    def request_stop(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        for job in queryset:
            if not services.request_stop(job, actor=actor_of(request)):
                text = _("Job %d has ended already.") % job.pk
                self.message_user(request, text, messages.WARNING)

    @admin.action(description=_("Undo selected jobs"), permissions=["stop"])
    def undo(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        for job in queryset:
            undo = undo_of(job.kind)
            try:
                if undo is None:
                    text = _("Job %d cannot be undone: jobs of its kind are for good.") % job.pk
                    self.message_user(request, text, messages.ERROR)
                    continue
                started = undo.start(actor_of(request), job.pk)
            except PostfleetError as exc:
                self.message_user(request, str(exc), messages.ERROR)
            else:
                text = _("Job %(new)d undoes job %(old)d.") % {"new": started.pk, "old": job.pk}
                self.message_user(request, text, messages.SUCCESS)

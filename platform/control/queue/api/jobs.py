"""Jobs over HTTP: watch, stop, undo."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from control.access import Actor, scope
from control.api.base import idempotency_key
from control.api.idempotency import once
from control.api.paging import Query, page
from control.api.problems import respond
from control.jobs import services
from control.jobs.models import Job
from control.queue import jobs
from control.queue.api import schema
from control.queue.api.frame import QueueView, actor_of, answered, read_members, refused
from control.queue.api.shown import shown_job
from control.queue.services import HoldDenied

MOST_ID = (1 << 31) - 1
_OF_QUEUE = frozenset(kind.value for kind in jobs.Kind)


def job_of(actor: Actor, number: int, *, is_to_change: bool = False) -> Job:
    """Return a job the actor may see, or 404. What an account may stop or undo are the jobs on
    the queue that it started: those of operators belong to no account."""
    rows = scope(actor, Job.objects.all())
    found = rows.filter(pk=number).first() if number <= MOST_ID else None
    if found is None:
        raise Http404
    if is_to_change and not actor.is_admin and found.kind not in _OF_QUEUE:
        raise HoldDenied("this job is not on the queue: an account only watches it")
    return found


class JobsView(QueueView):
    """All jobs."""

    @extend_schema(**schema.JOBS)
    def get(self, request: Request) -> HttpResponse:
        """List jobs, the newest first."""
        query = Query(request._request)
        rows = scope(actor_of(request), Job.objects.all())
        found = list(
            rows.filter(pk__lt=min(query.before, MOST_ID)).order_by("-pk")[: query.limit + 1]
        )
        return respond(page(query, found, show=shown_job, cursor=lambda job: str(job.pk)))


class JobView(QueueView):
    """One job."""

    @extend_schema(**schema.JOB)
    def get(self, request: Request, job_id: int) -> HttpResponse:
        """Return it with its progress."""
        return respond(shown_job(job_of(actor_of(request), job_id)))


class JobStopView(QueueView):
    """An early end."""

    @extend_schema(**schema.STOP)
    def post(self, request: Request, job_id: int) -> HttpResponse:
        """Ask a job to end; what it has done stays done. One that has ended stays as it is."""
        actor = actor_of(request)
        read_members(request, may_be_empty=True)
        job = job_of(actor, job_id, is_to_change=True)
        services.request_stop(job, actor=actor)
        return respond(shown_job(job_of(actor, job_id)), status=HTTPStatus.ACCEPTED)


class JobUndoView(QueueView):
    """A purge taken back."""

    @extend_schema(**schema.UNDO)
    def post(self, request: Request, job_id: int) -> HttpResponse:
        """Start a job that brings back what a purge removed."""
        actor = actor_of(request)
        key = idempotency_key(request._request)
        given, body = read_members(request, "reason", may_be_empty=True)
        reason = given.get("reason", "")
        if not isinstance(reason, str):
            raise refused("/reason", "invalid", "must be text")
        job_of(actor, job_id, is_to_change=True)

        def work() -> tuple[int, dict[str, Any]]:
            job = jobs.start_undo(actor, job_id, reason=reason)
            return job.pk, shown_job(job)

        answer = once(actor, key, (request.path, body), work)
        return answered(request, answer, HTTPStatus.ACCEPTED, below="jobs")

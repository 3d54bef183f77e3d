"""The queue over HTTP: how much waits, and what is done with it."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from control.access import Actor
from control.api.base import idempotency_key
from control.api.idempotency import once
from control.api.paging import Query, bad_parameter, page
from control.api.problems import respond
from control.jobs.models import Job
from control.queue import jobs
from control.queue.api import schema
from control.queue.api.frame import QueueView, actor_of, answered, read_members, refused
from control.queue.api.shown import GROUPS, shown_figure, shown_job
from control.queue.selectors import figures, names_of
from control.queue.targets import filter_of
from mailcore.rowfilter import FilterError, RowFilter

FILTERS = {
    "sender": "senders",
    "account": "accounts",
    "campaign": "campaigns",
    "isp": "isps",
    "site": "sites",
    "mail_class": "classes",
}
MEMBERS = ("filter", "reason", "dry_run")


class FiguresView(QueueView):
    """How much is queued."""

    @extend_schema(**schema.FIGURES)
    def get(self, request: Request) -> HttpResponse:
        """Return the rows by group and state; an account sees its own."""
        actor = actor_of(request)
        query = Query(request._request, "group_by", *FILTERS)
        group_by = _groups(query)
        found = figures([GROUPS[by] for by in group_by], _filter(actor, query))
        after = _cursor(query, len(group_by))
        groups = [one for one in found.groups if one.key > after] if group_by else []
        groups = groups[: query.limit + 1]
        names = names_of(group_by, groups)
        answer = page(
            query,
            groups,
            show=lambda one: shown_figure(one, group_by, names),
            cursor=lambda one: ".".join(map(str, one.key)),
        )
        return respond({"total": shown_figure(found.total, (), {}), **answer})


def _groups(query: Query) -> list[str]:
    names = [name for name in query.text("group_by").split(",") if name]
    for name in names:
        if name not in GROUPS:
            detail = f"{name[:40]!r} is none of {', '.join(GROUPS)}"
            raise bad_parameter("group_by", detail)
    return list(dict.fromkeys(names))


def _filter(actor: Actor, query: Query) -> RowFilter:
    given: dict[str, Any] = {}
    for name, member in FILTERS.items():
        if values := [value.strip() for value in query.given.getlist(name)]:
            given[member] = values
    try:
        return filter_of(actor, given or {"everything": True})
    except FilterError as exc:
        back = {member: name for name, member in FILTERS.items()}
        raise bad_parameter(back.get(exc.field, exc.field), exc.reason) from exc


def _cursor(query: Query, parts: int) -> tuple[int, ...]:
    text = query.text("cursor")
    numbers = text.split(".") if text else []
    if not all(part.isascii() and part.isdecimal() and len(part) < 20 for part in numbers):
        raise bad_parameter("cursor", "is none that we gave")
    if numbers and len(numbers) != parts:
        raise bad_parameter("cursor", "belongs to another group_by")
    return tuple(map(int, numbers))


class VerbView(QueueView):
    """Base of what is done with rows: it starts a job."""

    start: Callable[..., Job]

    def begin(self, request: Request) -> HttpResponse:
        """Start the job; 202 with its address."""
        actor = actor_of(request)
        key = idempotency_key(request._request)
        given, body = read_members(request, *MEMBERS)
        dry_run = given.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise refused("/dry_run", "invalid", "must be true or false")
        reason = given.get("reason", "")
        if not isinstance(reason, str):
            raise refused("/reason", "invalid", "must be text")
        filter_given = given.get("filter")
        if not isinstance(filter_given, dict):
            raise refused("/filter", "required", "say which rows are meant, as an object")

        def work() -> tuple[int, dict[str, Any]]:
            wanted = filter_of(actor, filter_given)
            job = type(self).start(actor, wanted, reason=reason, dry_run=dry_run)
            return job.pk, shown_job(job)

        answer = once(actor, key, (request.path, body), work)
        return answered(request, answer, HTTPStatus.ACCEPTED, below="jobs")


class PurgeView(VerbView):
    """Remove rows."""

    start = staticmethod(jobs.start_purge)

    @extend_schema(**schema.PURGE)
    def post(self, request: Request) -> HttpResponse:
        """Start a purge."""
        return self.begin(request)


class ExpireView(VerbView):
    """End rows as if their lifetime were over."""

    start = staticmethod(jobs.start_expire)

    @extend_schema(**schema.EXPIRE)
    def post(self, request: Request) -> HttpResponse:
        """Start an expiry."""
        return self.begin(request)


class RetryView(VerbView):
    """Let rows be due now."""

    start = staticmethod(jobs.start_retry)

    @extend_schema(**schema.RETRY)
    def post(self, request: Request) -> HttpResponse:
        """Start a retry."""
        return self.begin(request)

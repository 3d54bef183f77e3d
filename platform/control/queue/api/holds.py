"""Holds over HTTP: list, place, look, release."""

from __future__ import annotations

from http import HTTPStatus

from django.db import models
from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from control.access import Actor, scope
from control.api.base import idempotency_key
from control.api.idempotency import once
from control.api.paging import Query, page
from control.api.problems import respond
from control.api.times import read_time
from control.queue import services
from control.queue.api import schema
from control.queue.api.frame import (
    MOST_NUMBER,
    QueueView,
    actor_of,
    answered,
    read_members,
    refused,
)
from control.queue.api.shown import shown_hold
from control.queue.models import IN_FORCE, Hold
from control.queue.targets import with_names

MEMBERS = ("scope", "target", "reason", "ends_at")


def seen_by(actor: Actor) -> models.QuerySet[Hold]:
    """Return the holds an actor may see, with the names of their targets."""
    return with_names(scope(actor, Hold.objects.all()))


def hold_of(actor: Actor, number: int) -> Hold:
    """Return one of them, or 404."""
    found = seen_by(actor).filter(pk=number).first() if number <= MOST_NUMBER else None
    if found is None:
        raise Http404
    return found


class HoldsView(QueueView):
    """All holds."""

    @extend_schema(**schema.HOLDS)
    def get(self, request: Request) -> HttpResponse:
        """List holds, the newest first."""
        actor = actor_of(request)
        query = Query(request._request, "in_force")
        rows = seen_by(actor).filter(pk__lt=query.before).order_by("-pk")
        if query.flag("in_force"):
            rows = rows.filter(IN_FORCE)
        found = list(rows[: query.limit + 1])
        return respond(page(query, found, show=shown_hold, cursor=lambda hold: str(hold.pk)))

    @extend_schema(**schema.HOLD)
    def post(self, request: Request) -> HttpResponse:
        """Place a hold; it is in force when this answers."""
        actor = actor_of(request)
        key = idempotency_key(request._request)
        given, body = read_members(request, *MEMBERS)
        ends_at = None
        if given.get("ends_at") is not None:
            try:
                ends_at = read_time(given["ends_at"])
            except ValueError as exc:
                raise refused("/ends_at", "invalid_time", str(exc)) from exc

        def place() -> tuple[int, dict[str, object]]:
            hold = services.place_hold(
                actor,
                scope=given.get("scope", ""),
                target=given.get("target", ""),
                reason=given.get("reason"),
                ends_at=ends_at,
            )
            return hold.pk, shown_hold(hold_of(actor, hold.pk))

        return answered(request, once(actor, key, (request.path, body), place), HTTPStatus.CREATED)


class HoldView(QueueView):
    """One hold."""

    @extend_schema(**schema.ONE_HOLD)
    def get(self, request: Request, hold_id: int) -> HttpResponse:
        """Return it, whatever became of it."""
        return respond(shown_hold(hold_of(actor_of(request), hold_id)))


class HoldReleaseView(QueueView):
    """The end of a hold."""

    @extend_schema(**schema.RELEASE)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """Release it; one that is not in force any more stays as it is."""
        actor = actor_of(request)
        read_members(request, may_be_empty=True)
        services.release_hold(actor, hold_of(actor, hold_id))
        return respond(shown_hold(hold_of(actor, hold_id)))

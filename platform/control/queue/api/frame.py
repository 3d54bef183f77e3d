"""What the views of the queue share.

Gives    QueueView: the scope `queue`, and our refusals as problem documents
         read_members, actor_of, answered, refused
Raises   ApiError
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

from django.http import HttpResponse, HttpResponseBase
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from control.access import Actor, ApiScope
from control.api.base import ApiView, media_type, parse_json, read_body
from control.api.idempotency import Answer
from control.api.problems import ApiError, handle, respond, respond_problem
from control.queue.jobs import VerbRefused
from control.queue.services import HoldDenied, HoldRefused
from mailcore.errors import Problem
from mailcore.rowfilter import FilterError

_QUEUE = (ApiScope.QUEUE,)
JSON = "application/json"
MOST_NUMBER = (1 << 63) - 1
_TOO_DEEP = "the body is nested too deep"
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


class QueueView(ApiView):
    """A view over the queue. A token of the installation sees all of it, one of an account its
    own part."""

    scopes: ClassVar[dict[str, tuple[ApiScope, ...]]] = dict.fromkeys(
        ("GET", "POST", "DELETE"), _QUEUE
    )

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], HttpResponseBase]:
        """Return ours, which knows the refusals of the queue."""
        return _handle


def _handle(exc: Exception, context: dict[str, Any]) -> HttpResponseBase:
    unprocessable = HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(exc, HoldRefused):
        return respond_problem(unprocessable, exc.problems)
    if isinstance(exc, HoldDenied):
        return respond_problem(HTTPStatus.FORBIDDEN, [Problem("", "not_yours", str(exc))])
    if isinstance(exc, RecursionError):
        return respond_problem(HTTPStatus.BAD_REQUEST, [Problem("", "malformed_json", _TOO_DEEP)])
    if isinstance(exc, FilterError):
        pointer = f"/filter/{_escaped(exc.field)}" if exc.field else "/filter"
        return respond_problem(unprocessable, [Problem(pointer, "bad_filter", exc.reason)])
    if isinstance(exc, VerbRefused):
        pointer = "" if exc.field == "job_id" else "/" + exc.field.replace(".", "/")
        return respond_problem(unprocessable, [Problem(pointer, "refused", exc.reason)])
    return handle(exc, context)


def actor_of(request: Request) -> Actor:
    """Return who asks; 403 for a token that neither has an account nor administers."""
    actor = request.user
    if not isinstance(actor, Actor) or (actor.account_id is None and not actor.is_admin):
        raise PermissionDenied("the token belongs to no account and does not administer")
    return actor


def read_members(
    request: Request, *known: str, may_be_empty: bool = False
) -> tuple[dict[str, Any], bytes]:
    """Return the object that a body is, and the body; unknown members are refused."""
    body = read_body(request._request)
    if not body and may_be_empty:
        return {}, body
    if media_type(request._request) != JSON:
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "media_type",
            f"the body must be {JSON}",
            header="Content-Type",
        )
    given = parse_json(body)
    _refuse_half_characters(body, given)
    if not isinstance(given, dict):
        raise refused("", "not_an_object", "the body must be an object")
    for name in given:
        if name not in known:
            shown = ", ".join(known) or "none"
            detail = f"there is no member {name[:80]!r} here; there are: {shown}"
            raise refused(f"/{_escaped(name[:80])}", "unknown_member", detail)
    return given, body


def _escaped(name: str) -> str:
    """Return a member's name as a JSON pointer bears it."""
    return name.replace("~", "~0").replace("/", "~1")


def _refuse_half_characters(body: bytes, given: object) -> None:
    # Only an escape can bring one in; neither PostgreSQL nor an answer in UTF-8 takes it.
    if _HALF.search(body) is None:
        return
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        detail = "the body has half a surrogate pair, which is no character"
        raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_json", detail) from exc


def answered(
    request: Request, answer: Answer, status: HTTPStatus, *, below: str = "holds"
) -> HttpResponse:
    """Return the answer to a request that made a row, with its address."""
    response = respond(answer.text, status=status)
    base = request.path.partition("/api/v2/")[0]
    response["Location"] = f"{base}/api/v2/{below}/{answer.number}"
    if answer.is_replayed:
        response["Idempotency-Replayed"] = "true"
    return response


def refused(pointer: str, code: str, detail: str) -> ApiError:
    """Return the error of a member of the body."""
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, code, detail, pointer=pointer)

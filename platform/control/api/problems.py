"""Every error of the API as a problem document.

Gives    ApiError, respond, respond_problem, handle (the exception handler of our views),
         DATABASE_FAULTS
Takes    exceptions of ours, of DRF and of Django
Raises   nothing: what nobody foresaw is logged and answered with a 500 that tells nothing
Follows  RFC 9457 (problem documents), RFC 6901 (pointers), RFC 9110 §15 (status codes)
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from mailcore.errors import Problem, SubmissionRefused
from mailcore.ports import StoreFull, StoreUnavailable

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:postfleet:problem:"
RETRY_AFTER_S = 5
# Room on a disk comes with upkeep's next sweep, or with an operator.
FULL_RETRY_AFTER_S = 60

# PostgreSQL went away, or ended our session, while the ORM was asking.
DATABASE_FAULTS = (OperationalError, InterfaceError)

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An error we answer on purpose. `header` names the request header that is wrong, if one is."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        *,
        pointer: str = "",
        header: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = [Problem(pointer, code, detail)]
        self.header = header
        self.headers = dict(headers or {})


def respond(body: Any, *, status: int = 200) -> HttpResponse:
    """Return an answer in JSON; text is taken to be JSON already."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return HttpResponse(text, status=status, content_type="application/json")


def document(status: HTTPStatus, errors: Sequence[Problem], *, header: str = "") -> dict[str, Any]:
    """Return a problem document; its type and detail are the first error's."""
    shown = [{"pointer": e.pointer, "code": e.code, "detail": e.detail} for e in errors]
    if header:
        shown = [{**one, "header": header} for one in shown]
    return {
        "type": f"{TYPE_PREFIX}{errors[0].code}",
        "title": status.phrase,
        "status": status.value,
        "detail": errors[0].detail,
        "errors": shown,
    }


def respond_problem(
    status: HTTPStatus,
    errors: Sequence[Problem],
    *,
    header: str = "",
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """Return a problem document as an answer."""
    return HttpResponse(
        json.dumps(document(status, errors, header=header), ensure_ascii=False),
        status=status.value,
        content_type=CONTENT_TYPE,
        headers=dict(headers or {}),
    )


def refused_status(errors: Sequence[Problem]) -> HTTPStatus:
    """Return the status of a refused submission."""
    if all(error.code == "account_inactive" for error in errors):
        return HTTPStatus.FORBIDDEN
    return HTTPStatus.UNPROCESSABLE_ENTITY


def handle(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """Return the answer to an exception that left a view."""
    if isinstance(exc, ApiError):
        return respond_problem(exc.status, exc.errors, header=exc.header, headers=exc.headers)
    if isinstance(exc, SubmissionRefused):
        return respond_problem(refused_status(exc.problems), exc.problems)
    if isinstance(exc, DATABASE_FAULTS):
        exc = StoreUnavailable("postgres", str(exc).partition("\n")[0])
    if isinstance(exc, StoreUnavailable):
        return _of_store(exc)
    if isinstance(exc, Http404):
        exc = exceptions.NotFound()
    elif isinstance(exc, DjangoPermissionDenied):
        exc = exceptions.PermissionDenied()
    if isinstance(exc, exceptions.APIException):
        return _of_framework(exc)
    log.error("unforeseen error in the API", exc_info=exc)
    detail = "an unforeseen error; it has been logged"
    return respond_problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, [Problem("", "internal_error", detail)]
    )


def _of_store(exc: StoreUnavailable) -> HttpResponse:
    log.warning("store unavailable", extra={"store": exc.store, "reason": exc.reason})
    if isinstance(exc, StoreFull):
        code, retry_s = "insufficient_storage", FULL_RETRY_AFTER_S
        detail = "insufficient storage: nothing of this request was accepted; try again later"
    else:
        code, retry_s = "store_unavailable", RETRY_AFTER_S
        detail = "the service cannot store or look up mail just now; try again"
    return respond_problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        [Problem("", code, detail)],
        headers={"Retry-After": str(retry_s)},
    )


def _of_framework(exc: exceptions.APIException) -> HttpResponse:
    headers: dict[str, str] = {}
    if challenge := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait_s := getattr(exc, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait_s))
    status = HTTPStatus(exc.status_code)
    name = "Authorization" if status is HTTPStatus.UNAUTHORIZED else ""
    code = str(exc.get_codes()) if isinstance(exc.detail, str) else exc.default_code
    detail = str(exc.detail) if isinstance(exc.detail, str) else str(exc.default_detail)
    return respond_problem(status, [Problem("", code, detail)], header=name, headers=headers)

"""What a request gets that ends in none of our views: a plain page, or a problem for a program.

Gives    bad_request, forbidden, not_found, server_error (Django's four handlers), csrf_failure
Follows  RFC 9457 below /api; elsewhere a page that needs no database, no session and no style
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext as _

from control.api.problems import DATABASE_FAULTS, respond_problem
from mailcore.errors import Problem


def bad_request(request: HttpRequest, exception: Any = None) -> HttpResponse:
    """Answer 400: above all a host name that is not ours."""
    said = _("This address does not serve that host name, or the request is malformed.")
    return _answer(request, HTTPStatus.BAD_REQUEST, "bad_request", said)


def forbidden(request: HttpRequest, exception: Any = None) -> HttpResponse:
    """Answer 403."""
    said = _("Your account may not do this. Ask a master administrator.")
    return _answer(request, HTTPStatus.FORBIDDEN, "forbidden", said)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer 403 for a form that is not of this session."""
    said = _("This form is too old, or came from elsewhere. Go back, reload the page, try again.")
    return _answer(request, HTTPStatus.FORBIDDEN, "forbidden", said)


def not_found(request: HttpRequest, exception: Any = None) -> HttpResponse:
    """Answer 404."""
    said = _("There is nothing here: the address is wrong, or the row has been deleted.")
    return _answer(request, HTTPStatus.NOT_FOUND, "not_found", said)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer 503 where the database went away, else 500; the log tells the rest."""
    if isinstance(sys.exc_info()[1], DATABASE_FAULTS):
        said = _("The database does not answer just now. Try again in a moment.")
        return _answer(request, HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable", said)
    said = _("Something unforeseen went wrong. It is in the log of the web process (web.log).")
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", said)


def _answer(request: HttpRequest, status: HTTPStatus, code: str, said: str) -> HttpResponse:
    if request.path == "/api" or request.path.startswith("/api/"):
        return respond_problem(status, [Problem("", code, said)])
    shown = {"status": status.value, "title": status.phrase, "said": said}
    return HttpResponse(render_to_string("error.html", shown), status=status.value)

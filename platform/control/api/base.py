"""The base of every view of the v2 API.

Gives    ApiView: bearer tokens, scopes, problem documents, JSON whatever is accepted
         read_body, read_json, idempotency_key
Raises   ApiError: 400, 413, 415
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from rest_framework.authentication import BaseAuthentication
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from control.access import ApiScope
from control.api.authentication import BearerAuthentication, HasScope
from control.api.problems import ApiError, handle

_CHUNK = 64 * 1024
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")


class JsonAlways(BaseContentNegotiation):
    """There is one form of answer; what the client would rather have changes nothing."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        """Return the first parser; our views read the body themselves."""
        return next(iter(parsers))

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """Return the first renderer."""
        first = next(iter(renderers))
        return first, str(first.media_type)


class ApiView(APIView):
    """A view that answers every error with a problem document.

    `scopes` names what a token needs, by method.
    """

    authentication_classes: Sequence[type[BaseAuthentication]] = (BearerAuthentication,)
    permission_classes: Sequence[type[BasePermission]] = (HasScope,)
    renderer_classes: Sequence[type[BaseRenderer]] = (JSONRenderer,)
    content_negotiation_class = JsonAlways
    scopes: ClassVar[dict[str, tuple[ApiScope, ...]]] = {}

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], HttpResponseBase]:
        """Return ours, whatever the settings say."""
        return handle


def max_body_bytes() -> int:
    """Return how large a request may be."""
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 64 * 2**20)


def read_body(request: HttpRequest) -> bytes:
    """Return the body of a request, however it is framed; 413 as soon as it is too large."""
    limit = max_body_bytes()
    is_chunked = "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower()
    try:
        declared = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise ApiError(HTTPStatus.BAD_REQUEST, "content_length", "a wrong Content-Length") from None
    # Django takes a body without a length for an empty one; the server ends a chunked one itself.
    source: Any = request.META["wsgi.input"] if is_chunked and not declared else request
    chunks: list[bytes] = []
    size = 0
    while size <= limit and declared <= limit:
        chunk = source.read(_CHUNK)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    chunks.clear()
    _discard(source, limit)
    raise ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "request_too_large",
        f"a request may have {limit} octets; send large lists in several requests",
        header="Content-Length",
        headers={"Connection": "close"},
    )


def _discard(source: Any, most: int) -> None:
    """Read on for a while, so that the client finishes sending and reads why it was refused."""
    while most > 0:
        chunk = source.read(_CHUNK)
        if not chunk:
            return
        most -= len(chunk)


def media_type(request: HttpRequest) -> str:
    """Return the request's media type without its parameters."""
    text: str = request.META.get("CONTENT_TYPE", "")
    return text.partition(";")[0].strip().lower()


def parse_json(body: bytes) -> Any:
    """Return what a body of JSON says; 400 for anything else."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        detail = f"the body is not UTF-8 (octet {exc.start})"
    except RecursionError:
        detail = "the body is nested too deep"
    except ValueError as exc:
        detail = f"the body is not JSON: {exc}"
    raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_json", detail)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def idempotency_key(request: HttpRequest) -> str:
    """Return the Idempotency-Key, "" without one."""
    key: str = request.META.get("HTTP_IDEMPOTENCY_KEY", "")
    if key and not _KEY.match(key):
        detail = "the Idempotency-Key takes 1 to 255 visible ASCII characters"
        raise ApiError(HTTPStatus.BAD_REQUEST, "idempotency_key", detail, header="Idempotency-Key")
    return key

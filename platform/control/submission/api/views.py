"""Messages over HTTP.

Gives    MessagesView: POST a message, a list, or a bare RFC 5322 message
         MessageView: GET what became of a message
Raises   nothing that is not a problem document in the end

The injection view looks up the token (remembered for five seconds) and asks the ORM nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar
from uuid import UUID

from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from control.access import Actor, ApiScope
from control.api.base import ApiView, idempotency_key, media_type, parse_json, read_body
from control.api.problems import ApiError, document, refused_status, respond
from control.submission import services
from control.submission.api import schema
from control.submission.api.shown import shown_state
from control.submission.selectors import message_state
from mailcore.errors import Problem
from mailcore.submission import Offer, parse_offer, raw_offer
from mailio.intake import RequestKey
from mailio.ledger.accept import AcceptStatus

JSON = "application/json"
RFC822 = "message/rfc822"
_REPLAYED = "Idempotency-Replayed"


def account_of(request: Request) -> int:
    """Return the account a token speaks for; 403 for one that administers the installation."""
    actor = request.user
    if not isinstance(actor, Actor) or actor.account_id is None:
        detail = "mail is sent and read with an account's token"
        raise ApiError(HTTPStatus.FORBIDDEN, "no_account", detail, header="Authorization")
    return actor.account_id


class MessagesView(ApiView):
    """Offer messages."""

    scopes: ClassVar[dict[str, tuple[ApiScope, ...]]] = {"POST": (ApiScope.MESSAGES_SEND,)}

    @extend_schema(**schema.SEND)
    def post(self, request: Request) -> HttpResponse:
        """Accept messages; 202 once content and queue are on disk."""
        account_id = account_of(request)
        kind = media_type(request._request)
        if kind not in (JSON, RFC822):
            detail = f"the body must be {JSON} or {RFC822}"
            raise ApiError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media_type", detail, header="Content-Type"
            )
        text = idempotency_key(request._request)
        body = read_body(request._request)
        key = _request_key(account_id, text, request, body) if text else None
        if key is not None and (stored := services.door().intake.find(key)) is not None:
            return _answer(services.Outcome(stored.status, stored.text))
        if kind == RFC822:
            offer = _bare_offer(request, body)
            return _answer(services.submit_one(offer, account_id=account_id, key=key))
        given = parse_json(body)
        messages = services.messages_of(given)
        if messages is None:
            offer = parse_offer(given)
            return _answer(services.submit_one(offer, account_id=account_id, key=key))
        return _answer(
            services.submit_list(
                messages, account_id=account_id, key=key, show_problem=_shown_problem
            )
        )


class MessageView(ApiView):
    """Look at a message."""

    scopes: ClassVar[dict[str, tuple[ApiScope, ...]]] = {"GET": (ApiScope.MESSAGES_READ,)}

    @extend_schema(**schema.LOOK)
    def get(self, request: Request, message_id: str) -> HttpResponse:
        """Return the state of each recipient with its trace."""
        account_id = account_of(request)
        try:
            wanted = UUID(message_id)
        except ValueError:
            raise Http404 from None
        ours = services.door()
        state = message_state(
            wanted, account_id=account_id, outbox=ours.outbox, statistics=ours.statistics
        )
        if state is None:
            raise Http404
        return respond(shown_state(state))


def _request_key(account_id: int, text: str, request: Request, body: bytes) -> RequestKey:
    """The same key with another body, type or query is another request."""
    digest = hashlib.sha256()
    for part in (media_type(request._request), request._request.META.get("QUERY_STRING", "")):
        digest.update(part.encode() + b"\0")
    digest.update(body)
    return RequestKey(account_id, text, digest.digest())


def _bare_offer(request: Request, body: bytes) -> Offer:
    """A message as it is; its envelope comes in the query."""
    query = request._request.GET
    envelope: dict[str, Any] = {
        name: query[name]
        for name in ("sender", "campaign", "priority", "send_at", "expires_at")
        if name in query
    }
    if str(envelope.get("sender", "")).isdecimal():
        envelope["sender"] = int(envelope["sender"])
    unknown = set(query) - {"recipient", *envelope}
    if unknown:
        name = sorted(unknown)[0][:80]
        detail = f"{name!r} is no parameter"
        raise ApiError(HTTPStatus.BAD_REQUEST, "unknown_parameter", detail)
    return raw_offer(body, query.getlist("recipient"), **envelope)


def _shown_problem(problems: Sequence[Problem]) -> dict[str, Any]:
    return document(refused_status(problems), problems)


def _answer(outcome: services.Outcome) -> HttpResponse:
    if outcome.status is AcceptStatus.REUSED:
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "this Idempotency-Key was used with another body",
            header="Idempotency-Key",
        )
    answer = respond(outcome.text, status=HTTPStatus.ACCEPTED)
    if outcome.status is AcceptStatus.REPEATED:
        answer[_REPLAYED] = "true"
    return answer

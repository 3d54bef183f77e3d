"""The OpenAPI schema of holds, figures, verbs and jobs. It describes; the services judge.

Gives    HOLDS, HOLD, ONE_HOLD, RELEASE, FIGURES, PURGE, EXPIRE, RETRY, JOBS, JOB, STOP, UNDO:
         arguments of extend_schema; COVER, the hold that a message shows
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from control.api.components import responses_with_problems
from control.api.paging import MOST, USUAL
from control.jobs.choices import JobState
from control.queue.api.shown import GROUPS
from control.queue.reasons import MOST_REASON
from mailcore.holds import HoldScope
from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.rowfilter import MOST_VALUES

_STRING = {"type": "string"}
_REASON = {"type": "string", "maxLength": MOST_REASON}
_TEXT_OR_NULL = {"type": "string", "nullable": True}
_COUNT = {"type": "integer", "minimum": 0}
_TIME = {"type": "string", "format": "date-time"}
_TIME_OR_NULL = {**_TIME, "nullable": True}
_JSON = "application/json"

_SCOPES = [each.value for each in HoldScope]
_HOLD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "scope": {"type": "string", "enum": _SCOPES},
        "target_id": {"type": "integer", "nullable": True},
        "target": {**_TEXT_OR_NULL, "description": "Its name now; null if it is gone."},
        "reason": _STRING,
        "author": _STRING,
        "state": {"type": "string", "enum": ["in_force", "released", "ended"]},
        "placed_at": _TIME,
        "ends_at": _TIME_OR_NULL,
        "released_at": _TIME_OR_NULL,
        "released_by": _TEXT_OR_NULL,
    },
}
COVER: dict[str, Any] = {
    "type": "object",
    "nullable": True,
    "description": "The hold that keeps it from being sent, if one does.",
    "properties": {
        "id": {"type": "integer"},
        "scope": {"type": "string", "enum": _SCOPES},
        "reason": _STRING,
        "author": _STRING,
        "since": _TIME,
        "until": _TIME_OR_NULL,
    },
}
_ID_OR_NAME = {"oneOf": [{"type": "integer"}, _STRING]}


def _values(items: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "array",
        "items": items,
        "maxItems": MOST_VALUES,
        "description": description,
    }


_FILTER: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "description": (
        "Values of one member are alternatives, members are all to be met. The whole queue is "
        '`{"everything": true}`. An account\'s token means its own mail, whatever it says.'
    ),
    "properties": {
        "everything": {"type": "boolean"},
        "senders": _values(_ID_OR_NAME, "Numbers or names."),
        "accounts": _values(_ID_OR_NAME, "Numbers or login names."),
        "campaigns": _values(_ID_OR_NAME, "Numbers, labels, or account/label."),
        "isps": _values(_ID_OR_NAME, "Numbers or names."),
        "sites": _values(
            _STRING, "As a message's `queue` names them; `unrouted` for what has none yet."
        ),
        "domains": _values(_STRING, "Recipient domains."),
        "classes": _values({"enum": [one.word for one in MailClass]}, "Priority or main."),
        "states": _values(
            {"enum": [one.name.lower() for one in RowState if one is not RowState.LEASED]},
            "By default waiting alone. What a worker holds is never meant.",
        ),
        "reasons": _values({"enum": [one.value for one in WaitReason]}, "Why it waits."),
        "messages": _values({"type": "string", "format": "uuid"}, "Message IDs."),
        "recipients": _values(_STRING, "Addresses."),
        "older_than_s": {"type": "number", "description": "Accepted at least so long ago."},
    },
}
_JOB: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "kind": {"type": "string", "example": "queue.purge"},
        "title": _STRING,
        "state": {"type": "string", "enum": list(JobState.values)},
        "stop_requested": {"type": "boolean"},
        "done": _COUNT,
        "total": {**_COUNT, "nullable": True},
        "arguments": {"type": "object", "additionalProperties": True},
        "result": {"nullable": True, "description": "Of an ended job; its shape is its kind's."},
        "error": _TEXT_OR_NULL,
        "created_at": _TIME,
        "started_at": _TIME_OR_NULL,
        "heartbeat_at": {**_TIME_OR_NULL, "description": "Null between two turns."},
        "finished_at": _TIME_OR_NULL,
        "undo_until": {**_TIME_OR_NULL, "description": "Of a purge that has begun."},
    },
}
_FIGURE_OF: dict[str, Any] = {
    by: {
        "type": "object",
        "nullable": True,
        "properties": {"id": {"type": "integer"}, "name": _TEXT_OR_NULL},
    }
    for by in GROUPS
    if by != "mail_class"
}
_COUNTS: dict[str, Any] = {
    "waiting": _COUNT,
    "held": {**_COUNT, "description": "The part of waiting that a hold keeps."},
    "leased": {**_COUNT, "description": "With a worker."},
    "unknown": {**_COUNT, "description": "The last answer was lost."},
    "next_due_at": _TIME_OR_NULL,
}


def _page_of(item: dict[str, Any], **more: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["results", "next"],
        "properties": {
            **more,
            "results": {"type": "array", "items": item},
            "next": {
                "type": "string",
                "format": "uri-reference",
                "nullable": True,
                "description": "The next page; null on the last.",
            },
        },
    }


def _query(name: str, description: str, kind: Any = OpenApiTypes.STR) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=description)


_PAGING = [
    _query("limit", f"Results on a page: {USUAL}, at most {MOST}.", OpenApiTypes.INT),
    _query("cursor", "From `next`."),
]
_KEY = OpenApiParameter(
    "Idempotency-Key",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description=(
        "The same key with the same body is answered as the first time, with "
        "`Idempotency-Replayed: true`, and does nothing again."
    ),
)
_READ = (400, 401, 403, 429, 500, 503)
_WRITE = (400, 401, 403, 413, 415, 422, 429, 500, 503)


def _operation(
    name: str,
    summary: str,
    tag: str,
    good: dict[Any, Any],
    *statuses: int,
    description: str = "",
    parameters: list[OpenApiParameter] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "operation_id": name,
        "summary": summary,
        "tags": [tag],
        "responses": responses_with_problems(good, *statuses),
        "request": None if body is None else {_JSON: body},
    }
    if description:
        shown["description"] = description
    if parameters:
        shown["parameters"] = parameters
    return shown


def _id(name: str) -> OpenApiParameter:
    return OpenApiParameter(name, OpenApiTypes.INT, OpenApiParameter.PATH)


HOLDS = _operation(
    "holds",
    "Holds, the newest first",
    "holds",
    {(200, _JSON): _page_of(_HOLD)},
    *_READ,
    parameters=[_query("in_force", "`true`: only those in force.", OpenApiTypes.BOOL), *_PAGING],
)
HOLD = _operation(
    "hold",
    "Hold mail",
    "holds",
    {(201, _JSON): _HOLD},
    *_WRITE,
    description=(
        "In force when this answers; workers obey within 2 s, and mail that comes in later is held "
        "too. An account's token holds its account or its campaigns."
    ),
    parameters=[_KEY],
    body={
        "type": "object",
        "required": ["scope", "reason"],
        "additionalProperties": False,
        "properties": {
            "scope": {"type": "string", "enum": _SCOPES},
            "target": {**_ID_OR_NAME, "description": "Number or name; none for everything."},
            "reason": _REASON,
            "ends_at": {**_TIME_OR_NULL, "description": "Null: until it is released."},
        },
    },
)
ONE_HOLD = _operation(
    "hold_read",
    "One hold, whatever became of it",
    "holds",
    {(200, _JSON): _HOLD},
    404,
    *_READ,
    parameters=[_id("hold_id")],
)
RELEASE = _operation(
    "hold_release",
    "Release a hold",
    "holds",
    {(200, _JSON): _HOLD},
    404,
    *_WRITE,
    description="One that is not in force any more stays as it is, and is answered alike.",
    parameters=[_id("hold_id")],
)
FIGURES = _operation(
    "queue",
    "How much is queued",
    "queue",
    {
        (200, _JSON): _page_of(
            {
                "type": "object",
                "properties": {
                    **_FIGURE_OF,
                    "mail_class": {"type": "string", "enum": [one.word for one in MailClass]},
                    **_COUNTS,
                },
            },
            total={"type": "object", "properties": _COUNTS},
        )
    },
    *_READ,
    description="From counts that are kept: it costs the same for a thousand rows and a million.",
    parameters=[
        _query("group_by", f"Of {', '.join(GROUPS)}, with commas between."),
        *(_query(name, "Number or name; may be repeated.") for name in list(GROUPS)[:4]),
        _query("mail_class", "`priority` or `main`."),
        _query("site", "May be repeated; `unrouted` for what has none yet."),
        *_PAGING,
    ],
)


def _verb(name: str, summary: str, description: str, *, needs_reason: bool) -> dict[str, Any]:
    return _operation(
        f"queue_{name}",
        summary,
        "queue",
        {(202, _JSON): _JOB},
        *_WRITE,
        description=f"{description} A job does it; `Location` is its address.",
        parameters=[_KEY],
        body={
            "type": "object",
            "required": ["filter", "reason"] if needs_reason else ["filter"],
            "additionalProperties": False,
            "properties": {
                "filter": _FILTER,
                "reason": _REASON,
                "dry_run": {"type": "boolean", "default": False, "description": "Only count."},
            },
        },
    )


PURGE = _verb(
    "purge",
    "Remove what waits",
    "Each recipient ends as `purged`, with the reason. It can be undone for a day.",
    needs_reason=True,
)
EXPIRE = _verb(
    "expire",
    "Give up what waits",
    "Each recipient ends as `expired`, with the reason, for good.",
    needs_reason=True,
)
RETRY = _verb(
    "retry",
    "Try again now",
    "What is due later is due now. What is scheduled is left alone, what is held stays held.",
    needs_reason=False,
)
JOBS = _operation(
    "jobs",
    "Jobs, the newest first",
    "jobs",
    {(200, _JSON): _page_of(_JOB)},
    *_READ,
    parameters=_PAGING,
)
JOB = _operation(
    "job",
    "A job with its progress",
    "jobs",
    {(200, _JSON): _JOB},
    404,
    *_READ,
    parameters=[_id("job_id")],
)
STOP = _operation(
    "job_stop",
    "Ask a job to end",
    "jobs",
    {(202, _JSON): _JOB},
    404,
    *_WRITE,
    description="What it has done stays done. One that has ended stays as it is.",
    parameters=[_id("job_id")],
)
UNDO = _operation(
    "job_undo",
    "Take a purge back",
    "jobs",
    {(202, _JSON): _JOB},
    404,
    *_WRITE,
    description="Starts a job that brings back what was removed and has not expired since.",
    parameters=[_id("job_id"), _KEY],
    body={
        "type": "object",
        "additionalProperties": False,
        "properties": {"reason": _REASON},
    },
)

"""The OpenAPI schema of messages. It describes; mailcore.submission judges.

Gives    SEND, LOOK: arguments of extend_schema
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from control.api.components import PROBLEM, responses_with_problems
from control.queue.api.schema import COVER
from mailcore.events import EventKind
from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.submission.offer import MAX_CAMPAIGN, MAX_CUSTOM_BYTES, MAX_RECIPIENTS, TLS_WORDS

_STRING = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_BASE64 = {"type": "string", "format": "byte", "description": "Base64."}
_MAILBOX = {
    "oneOf": [
        {"type": "string", "description": "`address` or `Name <address>`"},
        {
            "type": "object",
            "required": ["address"],
            "properties": {"address": _STRING, "name": _STRING},
            "additionalProperties": False,
        },
    ]
}
_MAILBOXES = {"type": "array", "items": _MAILBOX, "maxItems": MAX_RECIPIENTS}
_ENVELOPE: dict[str, Any] = {
    "recipients": {
        **_MAILBOXES,
        "description": (
            "The envelope. With parts it takes the place of to, cc and bcc, which then only show "
            "in the header. Every recipient gets a copy of its own."
        ),
    },
    "sender": {
        "oneOf": [{"type": "integer"}, _STRING],
        "description": "Number or name of a sender; by default the account's own.",
    },
    "campaign": {"type": "string", "maxLength": MAX_CAMPAIGN},
    "priority": {
        "oneOf": [{"type": "boolean"}, {"enum": [one.word for one in MailClass]}],
        "default": False,
    },
    "send_at": {**_TIME, "description": "Not before this time."},
    "expires_at": {**_TIME, "description": "Give up at this time; else the account's lifetime."},
    "tls": {
        "enum": list(TLS_WORDS),
        "default": "policy",
        "description": (
            "policy: as sender, domain and receiver say. required: encrypted or not at all. "
            "requiretls: RFC 8689, encrypted and authenticated, and so at every server behind; "
            "a server that does not offer that gets no message, and the recipient bounces (5.7.30)."
        ),
    },
    "custom": {
        "type": "object",
        "additionalProperties": _STRING,
        "description": f"Comes back in events; at most {MAX_CUSTOM_BYTES} octets as JSON.",
    },
}
_PARTS_MESSAGE: dict[str, Any] = {
    "type": "object",
    "title": "A message of parts",
    "required": ["from"],
    "additionalProperties": False,
    "properties": {
        "from": _MAILBOX,
        "to": _MAILBOXES,
        "cc": _MAILBOXES,
        "bcc": _MAILBOXES,
        "reply_to": _MAILBOXES,
        "subject": {"type": "string", "maxLength": 2000},
        "text": _STRING,
        "html": _STRING,
        "attachments": {
            "type": "array",
            "maxItems": 100,
            "items": {
                "type": "object",
                "required": ["content"],
                "additionalProperties": False,
                "properties": {
                    "filename": {"type": "string", "maxLength": 200},
                    "content_type": {**_STRING, "default": "application/octet-stream"},
                    "content": _BASE64,
                    "content_id": {**_STRING, "description": "For cid: links in the HTML."},
                    "inline": {"type": "boolean", "default": False},
                },
            },
        },
        "headers": {
            "type": "object",
            "additionalProperties": {"oneOf": [_STRING, {"type": "array", "items": _STRING}]},
            "description": "More header fields, by name.",
        },
        **_ENVELOPE,
    },
}
_RAW_MESSAGE: dict[str, Any] = {
    "type": "object",
    "title": "A raw message",
    "required": ["raw", "recipients"],
    "additionalProperties": False,
    "properties": {
        "raw": {**_BASE64, "description": "RFC 5322. Sound parts arrive as they are."},
        **_ENVELOPE,
    },
}
_MESSAGE = {"oneOf": [_PARTS_MESSAGE, _RAW_MESSAGE]}
_RECEIPT: dict[str, Any] = {
    "type": "object",
    "required": ["message_id", "recipients"],
    "properties": {
        "message_id": {"type": "string", "format": "uuid"},
        "recipients": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["recipient", "accepted", "reason"],
                "properties": {
                    "recipient": _STRING,
                    "accepted": {"type": "boolean"},
                    "reason": {
                        "type": "string",
                        "nullable": True,
                        "description": (
                            "null, or a word: stopped (accepted, but on a stop list), "
                            "duplicate, malformed_address."
                        ),
                    },
                    "detail": _STRING,
                },
            },
        },
    },
}
_REFUSED: dict[str, Any] = {
    "type": "object",
    "required": ["message_id", "problem"],
    "properties": {
        "message_id": {"type": "string", "nullable": True, "enum": [None]},
        "problem": PROBLEM,
    },
}
_RECEIPTS: dict[str, Any] = {
    "type": "object",
    "required": ["results"],
    "properties": {"results": {"type": "array", "items": {"oneOf": [_RECEIPT, _REFUSED]}}},
}
_STATES = [
    "queued", "unknown", "settling", "delivered", "bounced", "expired", "stopped", "purged",
    "rejected",
]  # fmt: skip
_STATE: dict[str, Any] = {
    "type": "object",
    "required": ["message_id", "is_trace_complete", "recipients"],
    "properties": {
        "message_id": {"type": "string", "format": "uuid"},
        "is_trace_complete": {
            "type": "boolean",
            "description": "False while the statistics cannot be read.",
        },
        "recipients": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["recipient", "state", "queue", "trace"],
                "properties": {
                    "recipient": _STRING,
                    "state": {"type": "string", "enum": _STATES},
                    "queue": {
                        "type": "object",
                        "nullable": True,
                        "description": "While a result is owed.",
                        "properties": {
                            "state": {"enum": [one.name.lower() for one in RowState]},
                            "reason": {"enum": [one.value for one in WaitReason]},
                            "held": COVER,
                            "next_due_at": _TIME,
                            "expires_at": _TIME,
                            "accepted_at": _TIME,
                            "attempts": {"type": "integer"},
                            "last_reply": {"type": "string", "nullable": True},
                            "priority": {"enum": [one.word for one in MailClass]},
                            "site": {"type": "string", "nullable": True},
                        },
                    },
                    "trace": {
                        "type": "array",
                        "description": "What happened, oldest first. Empty fields are left out.",
                        "items": {
                            "type": "object",
                            "required": ["event_id", "kind", "occurred_at"],
                            "additionalProperties": True,
                            "properties": {
                                "event_id": _STRING,
                                "kind": {"enum": [kind.value for kind in EventKind]},
                                "occurred_at": _TIME,
                                "code": {"type": "integer"},
                                "reply": _STRING,
                                "mx_host": _STRING,
                                "next_due_at": _TIME,
                            },
                        },
                    },
                },
            },
        },
    },
}

SEND: dict[str, Any] = {
    "operation_id": "send",
    "summary": "Send one message or up to 1,000",
    "description": (
        "202 once content and queue are on disk. A list is answered 202 if at least one message "
        "was accepted, each with its receipt or its problem. A body of type message/rfc822 is one "
        "raw message; its envelope is in the query: recipient (repeated), sender, campaign, "
        "priority, send_at, expires_at."
    ),
    "tags": ["messages"],
    "parameters": [
        OpenApiParameter(
            "Idempotency-Key",
            OpenApiTypes.STR,
            OpenApiParameter.HEADER,
            description=(
                "The same key with the same body is answered as the first time, with "
                "`Idempotency-Replayed: true`, and accepts nothing again."
            ),
        ),
    ],
    "request": {
        "application/json": {
            "oneOf": [
                *_MESSAGE["oneOf"],
                {
                    "type": "object",
                    "title": "A list",
                    "required": ["messages"],
                    "additionalProperties": False,
                    "properties": {
                        "messages": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1000,
                            "items": _MESSAGE,
                        }
                    },
                },
            ]
        },
        "message/rfc822": {"type": "string", "format": "binary"},
    },
    "responses": responses_with_problems(
        {(202, "application/json"): {"oneOf": [_RECEIPT, _RECEIPTS]}},
        400, 401, 403, 413, 415, 422, 429, 500, 503,
    ),
}  # fmt: skip

LOOK: dict[str, Any] = {
    "operation_id": "message",
    "summary": "What became of a message",
    "tags": ["messages"],
    "parameters": [OpenApiParameter("message_id", OpenApiTypes.UUID, OpenApiParameter.PATH)],
    "responses": responses_with_problems(
        {(200, "application/json"): _STATE}, 401, 403, 404, 429, 500, 503
    ),
}

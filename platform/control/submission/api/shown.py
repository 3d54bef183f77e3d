"""How a message's state is shown in JSON.

Gives    shown_state
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from control.api.times import rfc3339
from control.queue.api.shown import shown_cover
from control.queue.models import Row
from control.submission.selectors import EventRow, MessageState, RecipientState
from mailcore.holds import Hold
from mailcore.outcome import MailClass, RowState, WaitReason

_TIMES = {"occurred_ms": "occurred_at", "accepted_ms": "accepted_at", "next_due_ms": "next_due_at"}
_LEFT_OUT = frozenset({"message_id", "account_id", "recipient_no", "recipient", "recipient_hash"})


def shown_state(state: MessageState) -> dict[str, Any]:
    """Return the whole answer."""
    return {
        "message_id": str(state.message_id),
        "is_trace_complete": state.is_trace_complete,
        "recipients": [_recipient(one) for one in state.recipients],
    }


def _recipient(one: RecipientState) -> dict[str, Any]:
    return {
        "recipient": one.recipient,
        "state": one.state,
        "queue": None if one.row is None else _queue(one.row, one.hold),
        "trace": [_event(event) for event in one.events],
    }


def _queue(row: Row, hold: Hold | None) -> dict[str, Any]:
    return {
        "state": RowState(row.state).name.lower(),
        "reason": WaitReason.HELD.value if hold is not None else row.reason,
        "held": None if hold is None else shown_cover(hold),
        "next_due_at": rfc3339(row.due_at),
        "expires_at": rfc3339(row.expires_at),
        "accepted_at": rfc3339(row.accepted_at),
        "attempts": row.attempt,
        "last_reply": row.last_reply or None,
        "priority": MailClass(row.lane.mail_class).word,
        "site": row.lane.site or None,
    }


def _event(event: EventRow) -> dict[str, Any]:
    """An event without what says nothing: empty texts and zeros."""
    shown: dict[str, Any] = {"event_id": str(event["event_id"]), "kind": str(event["kind"])}
    for name, value in event.items():
        if name in _LEFT_OUT or name in shown or value in ("", 0, None):
            continue
        if name in _TIMES:
            shown[_TIMES[name]] = rfc3339(datetime.fromtimestamp(int(value) / 1000, UTC))
        else:
            shown[name] = value if isinstance(value, (int, str)) else str(value)
    return shown

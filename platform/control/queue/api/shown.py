"""How holds, figures and jobs are shown in JSON.

Gives    shown_hold, shown_figure, shown_job, shown_cover
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from control.api.times import rfc3339
from control.jobs.models import Job
from control.queue.jobs import Kind, undo_until
from control.queue.models import Hold
from control.queue.selectors import Figure
from mailcore import holds as core
from mailcore.outcome import MailClass
from mailio.ledger.groups import GroupBy

GROUPS = {
    "sender": GroupBy.SENDER,
    "account": GroupBy.ACCOUNT,
    "campaign": GroupBy.CAMPAIGN,
    "isp": GroupBy.ISP,
    "mail_class": GroupBy.MAIL_CLASS,
}
# What a program cannot use: times are beside it, secrets there are none.
_ARGUMENTS = ("filter", "dry_run", "reason", "job_id")


def shown_hold(hold: Hold) -> dict[str, Any]:
    """Return a hold, whatever became of it; needs `target_name` (targets.with_names)."""
    name: str = getattr(hold, "target_name", hold.target)
    return {
        "id": hold.pk,
        "scope": hold.scope,
        "target_id": hold.target_id or None,
        "target": name or None,
        "reason": hold.reason,
        "author": hold.author,
        "state": hold.state,
        "placed_at": rfc3339(hold.placed_at),
        "ends_at": _time(hold.ends_at),
        "released_at": _time(hold.released_at),
        "released_by": hold.released_by or None,
    }


def shown_figure(
    figure: Figure, group_by: Sequence[str], names: dict[str, dict[int, str]]
) -> dict[str, Any]:
    """Return the figures of a group, with the numbers and names of what they are grouped by."""
    shown: dict[str, Any] = {}
    for by, number in zip(group_by, figure.key, strict=False):
        if by == "mail_class":
            shown[by] = MailClass(number).word
        else:
            known = names.get(by, {}).get(number)
            shown[by] = {"id": number, "name": known} if number else None
    return {
        **shown,
        "waiting": figure.waiting,
        "held": figure.held,
        "leased": figure.leased,
        "unknown": figure.unknown,
        "next_due_at": _time(figure.next_due_at),
    }


def shown_job(job: Job) -> dict[str, Any]:
    """Return a job with its progress and, of a purge, until when it can be undone."""
    arguments: dict[str, Any] = job.arguments if isinstance(job.arguments, dict) else {}
    is_undoable = job.kind == Kind.PURGE.value and not arguments.get("dry_run")
    return {
        "id": job.pk,
        "kind": job.kind,
        "title": job.title,
        "state": job.state,
        "stop_requested": job.stop_requested,
        "done": job.done_count,
        "total": job.total_count,
        "arguments": {name: arguments[name] for name in _ARGUMENTS if name in arguments},
        "result": job.result,
        "error": job.error or None,
        "created_at": rfc3339(job.created_at),
        "started_at": _time(job.started_at),
        "heartbeat_at": _time(job.heartbeat_at),
        "finished_at": _time(job.finished_at),
        "undo_until": _time(undo_until(job)) if is_undoable else None,
    }


def shown_cover(hold: core.Hold) -> dict[str, Any]:
    """Return the hold that covers a row, as a message shows it."""
    return {
        "id": hold.id,
        "scope": hold.scope.value,
        "reason": hold.reason,
        "author": hold.author,
        "since": rfc3339(hold.placed_at),
        "until": _time(hold.ends_at),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)

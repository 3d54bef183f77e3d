"""Purge, expire, retry, count and undo: what operators start, as jobs.

Gives    start_purge, start_expire, start_retry, start_count, start_undo -> Job; Kind, VerbRefused
Takes    a RowFilter; only rows accepted before the call are meant, so that a job ends while mail
         flows in
Raises   VerbRefused, which names the argument and the reason
Follows  design.md section 6; docs/ledger.md for what each verb does

Whoever calls has asked `control.access` already, and narrowed the filter to what the actor may
touch. A job belongs to the actor's account, if it has one. `control.queue.work` does the work; the
result of a job is described there.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from control.access import Actor
from control.accounts.models import Account
from control.jobs import services
from control.jobs.choices import JobState
from control.jobs.models import Job
from control.queue.reasons import ReasonRefused, read_reason
from mailcore.address import ForwardPath
from mailcore.errors import AddressError, PostfleetError
from mailcore.outcome import WaitReason
from mailcore.rowfilter import UNDO_KEPT_S, RowFilter

_OPEN = (JobState.WAITING, JobState.RUNNING)


class Kind(Enum):
    """The kinds of jobs on the queue."""

    PURGE = "queue.purge"
    EXPIRE = "queue.expire"
    RETRY = "queue.retry"
    COUNT = "queue.count"
    UNDO = "queue.undo"

    @property
    def word(self) -> str:
        """The verb as people say it."""
        return self.value.partition(".")[2]


class VerbRefused(PostfleetError):
    """A job that cannot be meant; `field` names the argument at fault."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def start_purge(actor: Actor, wanted: RowFilter, *, reason: str, dry_run: bool = False) -> Job:
    """Remove rows, told as `purged` with the reason; `start_undo` brings them back for a day."""
    return _start(Kind.PURGE, actor, wanted, reason=_required(reason), dry_run=dry_run)


def start_expire(actor: Actor, wanted: RowFilter, *, reason: str, dry_run: bool = False) -> Job:
    """End rows as if their lifetime were over, told as `expired` with the reason. For good."""
    return _start(Kind.EXPIRE, actor, wanted, reason=_required(reason), dry_run=dry_run)


def start_retry(actor: Actor, wanted: RowFilter, *, reason: str = "", dry_run: bool = False) -> Job:
    """Let rows that are due later be due now. Scheduled ones only if `reasons` names them, those
    of unknown outcome only if `states` does, parked ones never: release their hold."""
    if WaitReason.HELD in wanted.reasons:
        raise VerbRefused("reasons", "held rows are let go by releasing their hold")
    return _start(Kind.RETRY, actor, wanted, reason=_checked(reason), dry_run=dry_run)


def start_count(actor: Actor, wanted: RowFilter) -> Job:
    """Count rows; nothing is changed."""
    return _start(Kind.COUNT, actor, wanted, reason="", dry_run=True)


def start_undo(actor: Actor, job_id: int, *, reason: str = "") -> Job:
    """Bring back what a purge removed, but for what has outlived its lifetime since."""
    reason = _checked(reason)
    with transaction.atomic():
        # Whoever undoes the same purge at the same time waits here, and is refused below.
        job = Job.objects.select_for_update(of=("self",)).filter(pk=job_id).first()
        if job is None or job.kind != Kind.PURGE.value:
            raise VerbRefused("job_id", f"job {job_id} is no purge")
        _refuse_undo(job)
        title = f"undo: {job.title}"
        return services.start(
            kind=Kind.UNDO.value,
            title=title,
            actor=actor,
            account=job.account,
            job_id=job_id,
            **_signed(actor, reason),
        )


def why_not_undone(job: Job) -> str:
    """Return why a purge cannot be undone now, "" if it can."""
    try:
        _refuse_undo(job)
    except VerbRefused as refusal:
        return refusal.reason
    return ""


def _refuse_undo(job: Job) -> None:
    if job.arguments.get("dry_run"):
        raise VerbRefused("job_id", f"job {job.pk} was a dry run: it removed nothing")
    if job.state in _OPEN:
        raise VerbRefused("job_id", f"job {job.pk} still runs; stop it first")
    if Job.objects.filter(kind=Kind.UNDO.value, arguments__job_id=job.pk, state__in=_OPEN).exists():
        raise VerbRefused("job_id", f"job {job.pk} is being undone already")
    until = undo_until(job)
    if until is not None and until <= timezone.now():
        raise VerbRefused("job_id", f"job {job.pk} could be undone until {until:%F %T} UTC")


def undo_until(job: Job) -> datetime | None:
    """Return until when a purge can be undone; None for one that never began."""
    return None if job.started_at is None else job.started_at + timedelta(seconds=UNDO_KEPT_S)


def _start(kind: Kind, actor: Actor, wanted: RowFilter, *, reason: str, dry_run: bool) -> Job:
    wanted = replace(wanted, recipients=tuple(_recipient(each) for each in wanted.recipients))
    is_dry = ", dry run" if dry_run and kind is not Kind.COUNT else ""
    arguments: dict[str, Any] = {
        "filter": wanted.to_dict(),
        "dry_run": dry_run,
        "accepted_before": _database_time().isoformat(),
    }
    return services.start(
        kind=kind.value,
        title=f"{kind.word}{is_dry}: {wanted.words()}",
        actor=actor,
        account=_account(actor),
        **arguments,
        **_signed(actor, reason),
    )


def _account(actor: Actor) -> Account | None:
    """Return whose job it is: an account watches those that it started, and no operator's."""
    return Account.objects.filter(pk=actor.account_id).first() if actor.account_id else None


def _signed(actor: Actor, reason: str) -> dict[str, Any]:
    return {"reason": reason, "author": actor.label}


def _recipient(text: str) -> str:
    try:
        return ForwardPath.parse(text).key
    except AddressError as exc:
        raise VerbRefused("filter.recipients", str(exc)) from exc


def _required(reason: str) -> str:
    return _checked(reason, is_needed=True)


def _checked(reason: str, *, is_needed: bool = False) -> str:
    try:
        return read_reason(reason, is_needed=is_needed)
    except ReasonRefused as exc:
        raise VerbRefused("reason", str(exc)) from exc


def _database_time() -> datetime:
    """Rows bear the database's time, so what came before is asked of it too."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        found: datetime = cursor.fetchone()[0]
    return found

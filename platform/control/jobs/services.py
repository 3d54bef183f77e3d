"""Jobs: start, claim, tell progress, stop, end. Races are settled by conditional updates.

Gives    start, due, claim, report_progress, finish, fail, request_stop
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from control.access import Actor
from control.accounts.models import Account
from control.audit.changes import policy_change
from control.jobs.choices import JobState
from control.jobs.models import Job

STALE_S = 60.0


def start(
    *, kind: str, title: str, actor: Actor, account: Account | None = None, **arguments: Any
) -> Job:
    """Store a job that waits for a worker."""
    with policy_change(actor) as change:
        job = Job.objects.create(
            kind=kind,
            title=title[:200],
            account=account,
            arguments=arguments,
            created_by_id=actor.user_id,
        )
        change.created(job)
    return job


def claim(job_id: int) -> Job | None:
    """Return the job if its next turn is ours, None if another process was first.

    That is a job that waits, one between two turns, and one whose process gave no sign of life
    for STALE_S.
    """
    now = timezone.now()
    stale = Q(heartbeat_at=None) | Q(heartbeat_at__lt=now - timedelta(seconds=STALE_S))
    open_states = Q(state=JobState.WAITING) | (Q(state=JobState.RUNNING) & stale)
    taken = Job.objects.filter(open_states, pk=job_id).update(
        state=JobState.RUNNING, heartbeat_at=now, started_at=Coalesce(F("started_at"), Value(now))
    )
    return Job.objects.get(pk=job_id) if taken else None


def due() -> list[int]:
    """Return the jobs with a turn due, the oldest first; each has a part of the time."""
    stale = timezone.now() - timedelta(seconds=STALE_S)
    between = Q(heartbeat_at=None) | Q(heartbeat_at__lt=stale)
    found = Job.objects.filter(Q(state=JobState.WAITING) | (Q(state=JobState.RUNNING) & between))
    return list(found.order_by("id").values_list("pk", flat=True))


def report_progress(
    job: Job,
    *,
    done: int,
    total: int | None,
    cursor: dict[str, Any],
    result: Any = None,
    waits_for: str = "",
    is_turn_over: bool = False,
) -> bool:
    """Store progress, the result so far and where to go on; return False if the work shall stop.

    That is so, too, for a process that was thought dead and whose job another one has taken.
    """
    ours = _ours(job)
    job.done_count, job.total_count, job.cursor, job.result = done, total, cursor, result
    job.heartbeat_at = None if is_turn_over else timezone.now()
    changed = ours.update(
        **_progress(job), result=result, error=waits_for[:4000], heartbeat_at=job.heartbeat_at
    )
    return bool(changed) and Job.objects.filter(pk=job.pk, stop_requested=False).exists()


def finish(job: Job, *, result: Any = None, is_stopped: bool = False) -> None:
    """End a running job: done, or stopped because that was asked for."""
    _ours(job).update(
        **_progress(job),
        state=JobState.STOPPED if is_stopped else JobState.DONE,
        result=result,
        error="",
        finished_at=timezone.now(),
    )


def fail(job: Job, reason: str) -> None:
    """End a running job with the reason it failed for."""
    _ours(job).update(state=JobState.FAILED, error=reason[:4000], finished_at=timezone.now())


def _progress(job: Job) -> dict[str, Any]:
    return {"done_count": job.done_count, "total_count": job.total_count, "cursor": job.cursor}


def _ours(job: Job) -> QuerySet[Job]:
    """The running job, as long as the last sign of life is the one we gave."""
    return Job.objects.filter(pk=job.pk, state=JobState.RUNNING, heartbeat_at=job.heartbeat_at)


def request_stop(job: Job, *, actor: Actor) -> bool:
    """Ask a job to end early; a waiting one ends at once. False if it has ended already."""
    open_states = Q(state=JobState.WAITING) | Q(state=JobState.RUNNING)
    with policy_change(actor) as change:
        change.touch(job)
        asked = Job.objects.filter(open_states, pk=job.pk).update(stop_requested=True)
        Job.objects.filter(pk=job.pk, state=JobState.WAITING).update(
            state=JobState.STOPPED, finished_at=timezone.now()
        )
    return bool(asked)

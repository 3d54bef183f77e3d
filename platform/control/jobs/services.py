"""Jobs: start, claim, tell progress, stop, end. Races are settled by conditional updates.

Gives    start, claim, report_progress, finish, fail, request_stop
"""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.utils import timezone

from control.access import Actor
from control.accounts.models import Account
from control.audit.changes import policy_change
from control.jobs.choices import JobState
from control.jobs.models import Job


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
    """Return the job if it was waiting and now runs here, None if another process was first."""
    now = timezone.now()
    taken = Job.objects.filter(pk=job_id, state=JobState.WAITING, stop_requested=False).update(
        state=JobState.RUNNING, started_at=now, heartbeat_at=now
    )
    return Job.objects.get(pk=job_id) if taken else None


def report_progress(job: Job, *, done: int, total: int | None = None) -> bool:
    """Store progress; return False if the work shall stop."""
    changes: dict[str, Any] = {"done_count": done, "heartbeat_at": timezone.now()}
    if total is not None:
        changes["total_count"] = total
    goes_on = Job.objects.filter(pk=job.pk, state=JobState.RUNNING, stop_requested=False)
    return bool(goes_on.update(**changes))


def finish(job: Job, *, result: Any = None) -> None:
    """End a running job: done, or stopped if that was asked for."""
    running = Job.objects.filter(pk=job.pk, state=JobState.RUNNING)
    now = timezone.now()
    if not running.filter(stop_requested=False).update(
        state=JobState.DONE, result=result, finished_at=now
    ):
        running.update(state=JobState.STOPPED, result=result, finished_at=now)


def fail(job: Job, reason: str) -> None:
    """End a running job with the reason it failed for."""
    Job.objects.filter(pk=job.pk, state=JobState.RUNNING).update(
        state=JobState.FAILED, error=reason[:4000], finished_at=timezone.now()
    )


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

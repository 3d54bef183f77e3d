"""Work on jobs in turns of some seconds, step by step, so that each can be stopped and resumed.

Gives    register, Step, run_due
Takes    handlers by kind of job; each step is given the job and says where to go on
Raises   nothing of a handler's own: what it raises ends its job as failed, with the reason
Follows  style.md rule 5 (a task returns within seconds)

A step's effect is the handler's own transaction, and a step may be repeated when its process dies
before the cursor is stored: a handler makes the repeat harmless.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from control.jobs import services
from control.jobs.models import Job
from mailcore.ports import StoreUnavailable

TURN_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to. `done` and `total` are of the whole job; `result` is what the job
    shows from now on, ended or stopped; None leaves it as it was."""

    done: int
    total: int | None
    cursor: Mapping[str, Any] = field(default_factory=dict)
    is_last: bool = False
    result: Any = None


Handler = Callable[[Job], Step]
_HANDLERS: dict[str, Handler] = {}


def register(kind: str, handler: Handler) -> None:
    """Say who works on jobs of a kind; called when the app of the handler is ready."""
    _HANDLERS[kind] = handler


def run_due(*, turn_s: float = TURN_S) -> int:
    """Give each job that is due a turn, all in about `turn_s`; return how many steps were done."""
    steps = 0
    deadline = time.monotonic() + turn_s
    waiting = services.due()
    for place, job_id in enumerate(waiting):
        job = services.claim(job_id)
        if job is not None:
            left = max(deadline - time.monotonic(), 0.0)
            steps += _turn(job, time.monotonic() + left / (len(waiting) - place))
    return steps


def _turn(job: Job, deadline: float) -> int:
    """Do steps of a claimed job until it ends, is to stop, or its time is over."""
    handler = _HANDLERS.get(job.kind)
    if handler is None:
        services.fail(job, f"nobody works on jobs of the kind {job.kind!r}")
        return 0
    steps = 0
    while True:
        if job.stop_requested:
            services.finish(job, result=job.result, is_stopped=True)
            return steps
        try:
            step = handler(job)
        except StoreUnavailable as exc:
            # A store that is away comes back: the job goes on from where it was.
            log.warning("job waits", extra={"job": job.pk, "reason": str(exc)})
            _store(job, waits_for=str(exc), is_turn_over=True)
            return steps
        except Exception as exc:
            # The plane's edge: one job that fails must not keep the others from their turn.
            log.exception("job failed", extra={"job": job.pk, "kind": job.kind})
            # Its first line: the others are for the log.
            said = (str(exc).splitlines() or [""])[0]
            services.fail(job, f"{type(exc).__name__}: {said}")
            return steps
        steps += 1
        job.done_count, job.total_count, job.cursor = step.done, step.total, dict(step.cursor)
        if step.result is not None:
            job.result = step.result
        if step.is_last:
            services.finish(job, result=job.result)
            return steps
        is_over = time.monotonic() >= deadline
        job.stop_requested = not _store(job, is_turn_over=is_over)
        if is_over:
            return steps


def _store(job: Job, *, waits_for: str = "", is_turn_over: bool) -> bool:
    return services.report_progress(
        job,
        done=job.done_count,
        total=job.total_count,
        cursor=job.cursor,
        result=job.result,
        waits_for=waits_for,
        is_turn_over=is_turn_over,
    )

"""Work on the jobs of `control.queue.jobs`, a step at a time.

Gives    register_all: the runner's handlers of the queue's kinds of jobs
Takes    the arguments a job was started with; the policy in force, for the words of events
Raises   StoreUnavailable while PostgreSQL or a policy is away: the job waits
Follows  control.jobs.runner: a repeated step is harmless (mailio.ledger.verbs)

The result of a job, kept up with every step:
    examined, matched, changed  rows looked at, meant, and changed (0 in a dry run)
    by_state, by_isp            of those meant; the ISPs with most of them, each {isp_id, isp, rows}
    with_workers                rows meant that a worker had at the end; they were left alone
    sample                      some rows of a dry run
    undo_until                  of a purge: until when it can be undone
and of an undo: changed (rows brought back), too_late (whose lifetime was over).
A step whose process died before it was noted is missing in the counts of an expiry, a retry or
an undo; those of a purge are counted anew at its end.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings

from control.jobs.models import Job
from control.jobs.runner import Step, register
from control.queue.jobs import Kind, undo_until
from mailcore.disposition import Rulebook, write_rulebook
from mailcore.errors import SchemaError
from mailcore.policy import codec
from mailcore.ports import StoreUnavailable
from mailcore.reply import SmtpReply
from mailcore.rowfilter import RowFilter
from mailio.ledger.scan import Meant, Position
from mailio.ledger.verbs import QueueVerbs, VerbStep
from mailio.settings import Settings
from mailio.snapshots import SnapshotStore
from mailio.wake import RedisWaker

SAMPLE = 10
MOST_ISPS = 20


class Tools:
    """What this process works with. Nothing is connected before it is used."""

    def __init__(self, configured: Settings) -> None:
        self._waker = RedisWaker(configured.redis_url)
        self._policy = SnapshotStore(configured.database_url)
        self._rules: Rulebook | None = None
        self.verbs = QueueVerbs(
            configured.database_url, node=configured.node, wake=self._waker.wake
        )

    def rules(self) -> Rulebook:
        """Return the rules of the policy in force."""
        number = self._policy.active_number()
        if number is None:
            raise StoreUnavailable("policy", "no policy was published yet")
        if self._rules is None or self._rules.policy.revision != number[0]:
            self._rules = self._read()
        return self._rules

    def close(self) -> None:
        """Close the connections."""
        self.verbs.close()
        self._policy.close()
        self._waker.close()

    def _read(self) -> Rulebook:
        stored = self._policy.active()
        if stored is None:
            raise StoreUnavailable("policy", "no policy was published yet")
        try:
            found = codec.decode(stored.body, digest=stored.digest, revision=stored.revision)
        except SchemaError as exc:
            raise StoreUnavailable("policy", str(exc)) from exc
        return write_rulebook(found)


class _Opened:
    """Tools by process and database: a forked child opens its own."""

    lock: ClassVar[threading.Lock] = threading.Lock()
    tools: ClassVar[dict[tuple[int, str], Tools]] = {}


def tools() -> Tools:
    """Return this process's tools."""
    configured: Settings | None = settings.POSTFLEET
    if configured is None:
        raise StoreUnavailable("settings", "this process has no stores")
    key = (os.getpid(), configured.database_url)
    with _Opened.lock:
        found = _Opened.tools.get(key)
        if found is None:
            found = _Opened.tools[key] = Tools(configured)
    return found


def close_tools() -> None:
    """Close this process's tools; the next step opens them again."""
    with _Opened.lock:
        for key in [key for key in _Opened.tools if key[0] == os.getpid()]:
            _Opened.tools.pop(key).close()


def register_all() -> None:
    """Say who works on the queue's kinds of jobs."""
    for kind in Kind:
        register(kind.value, work_on_undo if kind is Kind.UNDO else work_on_rows)


def work_on_rows(job: Job) -> Step:
    """Do one step of a purge, an expiry, a retry or a count."""
    ours, meant = tools(), meant_by(job)
    is_first = not job.cursor
    position = meant.start() if is_first else Position.of_dict(job.cursor["position"])
    total = ours.verbs.to_look_at(meant.filter) if is_first else job.total_count
    rules = ours.rules()
    step = _do(job, ours.verbs, meant, position, rules)
    tally = _added(job.cursor.get("tally", _NOTHING), step)
    # A second turn looks for what came back, and is no progress.
    done = job.done_count + (step.examined if position.turn == 1 else 0)
    if total is not None:
        done = min(done, total)
    if step.position is not None:
        result = _result(job, tally, rules)
        cursor = {"position": step.position.to_dict(), "tally": tally}
        return Step(done, total, cursor, result=result)
    if _changes(job, Kind.PURGE):
        tally["changed"] = ours.verbs.recorded(job.pk)
    result = _result(job, tally, rules) | {"with_workers": ours.verbs.with_workers(meant)}
    return Step(done if total is None else total, total, is_last=True, result=result)


def work_on_undo(job: Job) -> Step:
    """Do one step of an undo."""
    ours, kept = tools(), job.cursor or {"after": 0, "changed": 0, "too_late": 0}
    purge_id = int(job.arguments["job_id"])
    total = job.total_count if job.cursor else ours.verbs.recorded(purge_id)
    reply = SmtpReply.local(250, "2.0.0", _words("restored", job))
    step = ours.verbs.undo_step(purge_id, kept["after"], rules=ours.rules(), reply=reply)
    result = {
        "changed": kept["changed"] + step.restored,
        "too_late": kept["too_late"] + step.too_late,
    }
    done = job.done_count + step.restored + step.too_late
    cursor = {"after": step.after, **result}
    return Step(done, total, cursor, is_last=step.after is None, result=result)


def meant_by(job: Job) -> Meant:
    """Return which rows a job is about."""
    arguments = job.arguments
    wanted = RowFilter.parse(arguments["filter"])
    before = datetime.fromisoformat(arguments["accepted_before"])
    is_twice = _changes(job, Kind.PURGE) or _changes(job, Kind.EXPIRE)
    return Meant(
        wanted,
        before - timedelta(seconds=wanted.older_than_s),
        is_late=job.kind == Kind.RETRY.value,
        turns=2 if is_twice else 1,
    )


def _do(job: Job, verbs: QueueVerbs, meant: Meant, position: Position, rules: Rulebook) -> VerbStep:
    if _changes(job, Kind.PURGE):
        reply = SmtpReply.local(554, "5.7.0", _words("purged", job))
        return verbs.purge_step(
            meant,
            position,
            job_id=job.pk,
            rules=rules,
            reply=reply,
            is_own=job.account_id is not None,
        )
    if _changes(job, Kind.EXPIRE):
        reply = SmtpReply.local(554, "5.4.7", _words("expired", job))
        return verbs.expire_step(meant, position, rules=rules, reply=reply)
    if _changes(job, Kind.RETRY):
        return verbs.retry_step(meant, position)
    shown = len(job.cursor.get("tally", _NOTHING)["sample"])
    return verbs.count_step(meant, position, sample=SAMPLE - shown)


def _changes(job: Job, kind: Kind) -> bool:
    return job.kind == kind.value and not job.arguments.get("dry_run")


def _words(done: str, job: Job) -> str:
    author, reason = job.arguments["author"], job.arguments["reason"]
    return f"{done} by {author}: {reason}" if reason else f"{done} by {author}"


_NOTHING: dict[str, Any] = {
    "examined": 0,
    "matched": 0,
    "changed": 0,
    "by_state": {},
    "by_isp": {},
    "sample": [],
}


def _added(tally: dict[str, Any], step: VerbStep) -> dict[str, Any]:
    """Return the tally with a step's counts; as JSON keeps it, so its keys are texts."""
    by_isp = Counter({str(isp): rows for isp, rows in step.by_isp.items()})
    return {
        "examined": tally["examined"] + step.examined,
        "matched": tally["matched"] + step.matched,
        "changed": tally["changed"] + step.changed,
        "by_state": dict(Counter(tally["by_state"]) + step.by_state),
        "by_isp": dict(Counter(tally["by_isp"]) + by_isp),
        "sample": [*tally["sample"], *step.sample],
    }


def _result(job: Job, tally: dict[str, Any], rules: Rulebook) -> dict[str, Any]:
    isps = rules.policy.isps
    result = dict(tally)
    result["by_isp"] = [
        {
            "isp_id": int(number),
            "isp": isps[int(number)].name if int(number) in isps else "",
            "rows": rows,
        }
        for number, rows in Counter(tally["by_isp"]).most_common(MOST_ISPS)
    ]
    until = undo_until(job) if _changes(job, Kind.PURGE) else None
    if until is not None:
        result["undo_until"] = until.isoformat()
    if not job.arguments.get("dry_run"):
        del result["sample"]
    return result

"""Jobs in turns: stopped, resumed, failed, waiting; and never twice at once."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import close_old_connections, connections
from django.utils import timezone

from control.jobs import services
from control.jobs.choices import JobState
from control.jobs.models import Job
from control.jobs.runner import Step, register, run_due
from mailcore.ports import StoreUnavailable
from tests.control.conftest import SYSTEM

pytestmark = pytest.mark.django_db(transaction=True)
_kinds = itertools.count()


class Killed(BaseException):
    """What ends a process without a word: nothing in the runner answers to it."""


def job_of(handler: Callable[[Job], Step]) -> Job:
    kind = f"test.{next(_kinds)}"
    register(kind, handler)
    return services.start(kind=kind, title=kind, actor=SYSTEM)


def counting(last: int) -> Callable[[Job], Step]:
    """A handler whose steps count to `last`."""

    def step(job: Job) -> Step:
        at = int(job.cursor.get("at", 0)) + 1
        return Step(at, last, {"at": at}, is_last=at == last, result={"at": at})

    return step


def stored(job: Job) -> Job:
    return Job.objects.get(pk=job.pk)


def test_a_job_is_done_step_by_step_and_shows_its_result() -> None:
    job = job_of(counting(5))
    assert run_due() == 5
    done = stored(job)
    assert (done.state, done.done_count, done.total_count) == (JobState.DONE, 5, 5)
    assert (done.result, done.error) == ({"at": 5}, "")
    assert done.finished_at is not None
    assert run_due() == 0


def test_a_turn_ends_in_time_and_the_next_goes_on_where_it_was() -> None:
    job = job_of(counting(3))
    assert run_due(turn_s=0) == 1
    between = stored(job)
    assert (between.state, between.cursor, between.result) == (
        JobState.RUNNING,
        {"at": 1},
        {"at": 1},
    )
    assert run_due(turn_s=0) == 1
    assert run_due(turn_s=0) == 1
    assert stored(job).state == JobState.DONE


def test_each_job_has_its_turn_however_long_the_others_are() -> None:
    endless = [job_of(counting(10**9)) for _ in range(3)]
    short = job_of(counting(2))
    assert run_due(turn_s=0) == 4
    assert run_due(turn_s=0.2) > 4
    assert stored(short).state == JobState.DONE
    assert all(stored(job).done_count > 2 for job in endless)


def test_a_job_whose_process_was_killed_goes_on_from_its_cursor_when_that_is_certain() -> None:
    seen: list[int] = []

    def step(job: Job) -> Step:
        at = int(job.cursor.get("at", 0)) + 1
        seen.append(at)
        if at == 3 and seen.count(3) == 1:
            raise Killed
        return Step(at, 4, {"at": at}, is_last=at == 4)

    job = job_of(step)
    with pytest.raises(Killed):
        run_due()
    assert (stored(job).state, stored(job).cursor) == (JobState.RUNNING, {"at": 2})
    assert run_due() == 0  # its process may live
    long_ago = timezone.now() - timedelta(seconds=services.STALE_S + 1)
    Job.objects.filter(pk=job.pk).update(heartbeat_at=long_ago)
    assert run_due() == 2
    assert stored(job).state == JobState.DONE
    assert seen == [1, 2, 3, 3, 4]


def test_a_process_that_was_thought_dead_has_lost_its_job() -> None:
    taken: list[Job] = []

    def step(job: Job) -> Step:
        if not taken:
            long_ago = timezone.now() - timedelta(seconds=services.STALE_S + 1)
            Job.objects.filter(pk=job.pk).update(heartbeat_at=long_ago)
            other = services.claim(job.pk)
            assert other is not None
            taken.append(other)
            assert services.report_progress(other, done=7, total=9, cursor={"at": 7})
        return Step(1, 9, {"at": 1}, is_last=True)

    job = job_of(step)
    run_due()
    assert (stored(job).state, stored(job).cursor) == (JobState.RUNNING, {"at": 7})
    services.finish(taken[0])
    assert (stored(job).state, stored(job).done_count) == (JobState.DONE, 7)


def test_a_stop_is_heard_between_steps_and_leaves_what_was_done() -> None:
    def step(job: Job) -> Step:
        at = int(job.cursor.get("at", 0)) + 1
        if at == 2:
            services.request_stop(stored(job), actor=SYSTEM)
        return Step(at, 9, {"at": at}, result={"at": at})

    job = job_of(step)
    assert run_due() == 2
    stopped = stored(job)
    assert (stopped.state, stopped.done_count) == (JobState.STOPPED, 2)
    assert stopped.result == {"at": 2}


def test_a_stop_between_turns_keeps_the_result() -> None:
    job = job_of(counting(9))
    run_due(turn_s=0)
    assert services.request_stop(job, actor=SYSTEM)
    assert run_due() == 0
    assert (stored(job).state, stored(job).result) == (JobState.STOPPED, {"at": 1})


def test_a_job_that_fails_says_why_and_harms_no_other() -> None:
    def step(job: Job) -> Step:
        raise LookupError("no such file")

    failing, other = job_of(step), job_of(counting(2))
    assert run_due() == 2
    failed = stored(failing)
    assert (failed.state, failed.error) == (JobState.FAILED, "LookupError: no such file")
    assert failed.finished_at is not None
    assert stored(other).state == JobState.DONE


def test_a_job_waits_for_a_store_that_is_away_and_says_so() -> None:
    away = [True]

    def step(job: Job) -> Step:
        if away[0]:
            raise StoreUnavailable("postgresql", "no route to host")
        return Step(1, 1, is_last=True)

    job = job_of(step)
    assert run_due() == 0
    waiting = stored(job)
    assert (waiting.state, waiting.error) == (JobState.RUNNING, "postgresql: no route to host")
    away.clear()
    away.append(False)
    assert run_due() == 1
    assert (stored(job).state, stored(job).error) == (JobState.DONE, "")


def test_a_kind_nobody_knows_fails_in_words() -> None:
    job = services.start(kind="nobody.knows", title="x", actor=SYSTEM)
    assert run_due() == 0
    assert stored(job).error == "nobody works on jobs of the kind 'nobody.knows'"


def test_two_processes_never_have_the_same_job_at_once() -> None:
    lock, at_work, steps = threading.Lock(), set[int](), Counter[int]()
    twice: list[int] = []

    def step(job: Job) -> Step:
        with lock:
            if job.pk in at_work:
                twice.append(job.pk)
            at_work.add(job.pk)
        at = int(job.cursor.get("at", 0)) + 1
        time.sleep(0.001)  # noqa: TID251 (room for another to come)
        with lock:
            at_work.discard(job.pk)
            steps[job.pk] += 1
        return Step(at, 20, {"at": at}, is_last=at == 20)

    def worker() -> None:
        close_old_connections()
        while Job.objects.filter(state__in=[JobState.WAITING, JobState.RUNNING]).exists():
            run_due(turn_s=0)
        connections.close_all()

    jobs = [job_of(step) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for future in [threads.submit(worker) for _ in range(3)]:
            future.result(timeout=50)
    assert twice == []
    assert [steps[job.pk] for job in jobs] == [20, 20, 20]
    assert {stored(job).state for job in jobs} == {JobState.DONE}

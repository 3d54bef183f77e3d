"""Group commit: who waits together is written together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from mailcore.ports import StoreUnavailable
from mailio.spool.group import GroupCommit


def test_threads_that_wait_share_a_commit_and_each_gets_its_own_result() -> None:
    batches: list[int] = []
    may_go = threading.Event()

    def commit(items: Sequence[int]) -> list[int]:
        may_go.wait(60)
        batches.append(len(items))
        return [item * 2 for item in items]

    group: GroupCommit[int, int] = GroupCommit(commit)
    results: dict[int, int] = {}
    arrived = threading.Barrier(21)

    def submit(number: int) -> None:
        arrived.wait(60)
        results[number] = group.submit(number)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    arrived.wait(60)
    may_go.set()
    for thread in threads:
        thread.join()
    assert results == {number: number * 2 for number in range(20)}
    assert sum(batches) == 20


def test_a_failed_commit_fails_its_own_batch_only() -> None:
    def commit(items: Sequence[str]) -> list[str]:
        (item,) = items
        if item == "bad":
            raise StoreUnavailable("spool", "no")
        return [item]

    group: GroupCommit[str, str] = GroupCommit(commit)
    with pytest.raises(StoreUnavailable):
        group.submit("bad")
    assert group.submit("good") == "good"


def test_a_batch_is_closed_once_it_is_heavy_enough() -> None:
    batches: list[list[int]] = []
    first_runs, may_go = threading.Event(), threading.Event()

    def commit(items: Sequence[int]) -> list[int]:
        first_runs.set()
        may_go.wait(60)
        batches.append(list(items))
        return list(items)

    group: GroupCommit[int, int] = GroupCommit(
        commit, linger_s=0.001, weigh=lambda item: item, max_weight=10
    )
    threads = [threading.Thread(target=group.submit, args=(6,)) for _ in range(7)]
    threads[0].start()
    assert first_runs.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(group._queue) < 6:
        threading.Event().wait(0.001)
    may_go.set()
    for thread in threads:
        thread.join()
    assert batches == [[6], [6, 6], [6, 6], [6, 6]]

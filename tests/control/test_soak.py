"""The kill suite's own arithmetic: what is drawn, and what makes a run a failure."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from control.management.fleet.reckoning import Evidence, Offered, reckon
from tests.soak.account import Account, Hit, account_of
from tests.soak.faults import FAULTS
from tests.soak.mutations import MUTATIONS, TOP, Mutation, mutate
from tests.soak.plan import chosen, draw

WEIGHTS = {"kill.web": 1.0, "kill.delivery1": 3.0, "disk.full": 0.0001}
A, B = "a@x.test", "b@x.test"


def test_a_seed_draws_the_same_faults_again_and_each_kind_once_at_first() -> None:
    first, again = (list(islice(draw(WEIGHTS, 7), 50)) for _ in range(2))
    assert first == again
    assert {one.name for one in first[:3]} == set(WEIGHTS)
    assert [one.number for one in first] == list(range(1, 51))
    assert first != list(islice(draw(WEIGHTS, 8), 50))
    assert {one.name for one in first[3:]} == {"kill.web", "kill.delivery1"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ("kill.web", "kill.delivery1", "disk.full")),
        ("kill.*", ("kill.web", "kill.delivery1")),
        (" disk.full , kill.w* ,disk.full", ("disk.full", "kill.web")),
    ],
)
def test_faults_are_chosen_by_name_and_pattern(text: str, found: tuple[str, ...]) -> None:
    assert chosen(tuple(WEIGHTS), text) == found


def test_a_fault_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"FAULTS: no fault 'kil'; there are disk\.full, kill"):
        chosen(tuple(WEIGHTS), "kill.*,kil")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_mutation_breaks_words_that_are_there_and_the_rest_still_compiles(
    mutation: Mutation, tmp_path: Path
) -> None:
    copy = tmp_path / mutation.path
    copy.parent.mkdir(parents=True)
    shutil.copy(TOP / mutation.path, copy)
    mutate(tmp_path, mutation)
    compile(copy.read_text(), mutation.path, "exec")
    if mutation.is_soak:
        assert chosen(tuple(FAULTS), mutation.check)


# ── the account ───────────────────────────────────────────────────────────────────────────────


def took(recipient: str, reply: str | None = "250 ok") -> dict[str, Any]:
    """A fact of the lab: a receiver took a message."""
    return {"recipient": recipient, "fate": "accepted", "reply": reply, "at": 2.0}


def account(
    *facts: dict[str, Any],
    hits: tuple[Hit, ...] = (),
    unknown: frozenset[str] = frozenset({A}),
    **changes: Any,
) -> Account:
    """Account for two recipients, both told as delivered."""
    evidence = {
        "offered": {A: Offered("X", 1.0), B: Offered("X", 1.0)},
        "facts": facts,
        "reports": [],
        "told": [("delivered", A, 1), ("delivered", B, 1)],
        "queued": frozenset(),
        "on_the_wire": frozenset(),
    }
    reckoning = reckon(Evidence(**{**evidence, **changes}), isps=["X"])
    return account_of(3, reckoning, facts=facts, hits=hits, unknown=unknown)


def test_a_run_without_loss_or_copy_is_good_and_says_so_in_one_line() -> None:
    found = account(took(A), took(B))
    assert found.faults == []
    assert found.line == (
        "soak: faults=3 accepted=2 delivered=2 bounced=0 expired=0 stopped=0 purged=0 queued=0"
        " unaccounted=0 copies=0 on_the_wire=0"
    )


def test_a_message_that_no_receiver_saw_is_unaccounted_for() -> None:
    found = account(took(A), told=[("delivered", A, 1)])
    assert "unaccounted=1" in found.line
    assert found.faults == [f"1 unaccounted: {B}"]


def test_what_is_still_queued_is_no_success() -> None:
    found = account(took(A), told=[("delivered", A, 1)], queued=frozenset({B}))
    assert "queued=1 unaccounted=0" in found.line
    assert found.faults == [f"1 queued: {B}"]


def test_a_copy_is_explained_by_a_fault_that_found_it_on_the_wire() -> None:
    found = account(took(A), took(A), took(B), hits=(Hit("4 kill.web", frozenset({A})),))
    assert found.faults == []
    assert "copies=1 on_the_wire=1" in found.line
    assert [str(copy) for copy in found.copies] == [f"{A}: 1 by 4 kill.web"]


def test_a_copy_is_explained_by_a_reply_that_its_receiver_lost() -> None:
    found = account(took(A, reply=None), took(A), took(B))
    assert found.faults == []
    assert "copies=1 on_the_wire=1" in found.line


@pytest.mark.parametrize(
    "hits",
    [
        (Hit("4 kill.web", frozenset({B, "c@x.test", "d@x.test"})),),
        (Hit("4 kill.web", frozenset({A})),),
    ],
)
def test_a_copy_too_many_is_a_failure_whoever_else_was_on_the_wire(hits: tuple[Hit, ...]) -> None:
    found = account(took(A), took(A), took(A), took(B), hits=hits)
    assert any("a copy nothing explains" in one for one in found.faults)


def test_a_copy_that_was_sent_without_a_doubt_is_a_failure() -> None:
    hits = (Hit("4 kill.web", frozenset({A})),)
    found = account(took(A), took(A), took(B), hits=hits, unknown=frozenset())
    assert found.faults == [
        f"a copy nothing explains: {A}: 1 by 4 kill.web, sent again without a doubt"
    ]


def test_statistics_that_tell_an_end_twice_are_a_failure() -> None:
    found = account(took(A), took(B), told=[("delivered", A, 2), ("delivered", B, 1)])
    assert found.faults == [f"1 misreported: {A}"]

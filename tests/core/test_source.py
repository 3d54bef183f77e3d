"""Which source sends: weights, allowance, pins, and the modes of a retry."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.policy.model import PolicySnapshot, Pool, PoolMember, Source
from mailcore.policy.words import RetryMode
from mailcore.routing.source import Candidate, candidates, choose_retry_source, choose_source

MEMBERS = (Candidate(1, "n1", 1), Candidate(2, "n1", 3), Candidate(3, "n2", 4))


def snapshot() -> PolicySnapshot:
    sources = (
        Source(4, "n2", "192.0.2.4", "d.example.com"),
        Source(1, "n1", "192.0.2.1", "a.example.com"),
        Source(2, "n1", "192.0.2.2", "b.example.com", is_active=False),
        Source(3, "n1", "192.0.2.3", "c.example.com"),
    )
    members = tuple(
        PoolMember(number, 0 if number == 3 else number, 9) for number in (4, 1, 2, 3, 5)
    )
    return PolicySnapshot(
        1, sources={each.id: each for each in sources}, pools={6: Pool(6, "all", members)}
    )


def test_the_candidates_of_a_pool_are_its_active_sources_with_weight() -> None:
    assert candidates(snapshot(), 6) == (Candidate(1, "n1", 1, 9), Candidate(4, "n2", 4, 9))
    assert candidates(snapshot(), 99) == ()


def test_sources_share_by_weight() -> None:
    chosen = Counter(choose_source(MEMBERS, draw=i / 800) for i in range(800))
    assert chosen == {1: 100, 2: 300, 3: 400}


def test_allowance_now_weighs_as_much_as_the_weight() -> None:
    allowance = {1: 8.0, 3: 2.0}
    chosen = Counter(choose_source(MEMBERS, draw=i / 160, allowance=allowance) for i in range(160))
    assert chosen == {1: 80, 3: 80}


def test_without_members_or_allowance_nobody_sends() -> None:
    assert choose_source((), draw=0.5) is None
    assert choose_source(MEMBERS, draw=0.5, allowance={}) is None
    assert choose_source(MEMBERS, draw=0.5, allowance={1: -1.0}) is None


def test_a_pinned_source_is_the_only_answer_even_if_it_has_to_wait() -> None:
    assert choose_source(MEMBERS, draw=0.99, pinned=1) == 1
    assert choose_source(MEMBERS, draw=0.99, pinned=1, allowance={1: 1.0, 3: 99.0}) == 1
    assert choose_source(MEMBERS, draw=0.99, pinned=1, allowance={3: 99.0}) is None


def test_a_pin_to_a_source_that_left_the_pool_holds_nobody_back() -> None:
    assert choose_source(MEMBERS, draw=0.0, pinned=77) == 1


@given(draw=st.floats(0, 1))
def test_every_draw_gives_a_source_that_may_send(draw: float) -> None:
    assert choose_source(MEMBERS, draw=draw, allowance={2: 1.0, 3: 0.1}) in (2, 3)


def test_a_retry_from_the_same_ip_stays() -> None:
    mode = RetryMode.SAME_IP
    assert choose_retry_source(MEMBERS, mode=mode, tried=2, draw=0.0) == 2
    assert choose_retry_source(MEMBERS, mode=mode, tried=77, draw=0.0) is None


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_a_retry_from_another_ip_of_the_node_goes_nowhere_else(draw: float) -> None:
    mode = RetryMode.OTHER_IP_SAME_NODE
    assert choose_retry_source(MEMBERS, mode=mode, tried=2, draw=draw) == 1
    assert choose_retry_source(MEMBERS, mode=mode, tried=3, draw=draw) is None
    assert choose_retry_source(MEMBERS, mode=mode, tried=77, draw=draw) is None


@given(draw=st.floats(0, 1, exclude_max=True))
def test_a_retry_from_any_other_ip_never_takes_the_one_that_was_tried(draw: float) -> None:
    mode = RetryMode.OTHER_IP_ANY_NODE
    assert choose_retry_source(MEMBERS, mode=mode, tried=2, draw=draw) in (1, 3)
    assert choose_retry_source(MEMBERS[:1], mode=mode, tried=1, draw=draw) is None

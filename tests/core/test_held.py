"""What holds leave over of a policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mailcore.holds import NO_HOLDS, Hold, HoldScope, HoldSet
from mailcore.routing.held import held_senders, hold_on, sources_left
from tests.support.builders import DOMAIN, NODE, policy, row

POLICY = policy(sources=2)
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def held(scope: HoldScope, target_id: int = 0, target: str = "") -> HoldSet:
    """Return a single hold as the set in force."""
    return HoldSet.of([Hold(1, scope, target_id, target, "why", "ann", WHEN)])


def left(holds: HoldSet) -> list[int]:
    """Return the sources the pool may still send from."""
    return [candidate.source_id for candidate in sources_left(POLICY, holds, 1)]


def test_without_holds_every_active_source_is_left_and_no_sender_is_held() -> None:
    assert left(NO_HOLDS) == [1, 2]
    assert held_senders(POLICY, NO_HOLDS) == []


def test_a_held_source_leaves_the_others_and_holds_no_sender() -> None:
    holds = held(HoldScope.SOURCE, 1)
    assert left(holds) == [2]
    assert held_senders(POLICY, holds) == []


@pytest.mark.parametrize(
    "holds",
    [
        held(HoldScope.EVERYTHING),
        held(HoldScope.POOL, 1),
        held(HoldScope.NODE, 0, NODE),
        HoldSet.of([Hold(n, HoldScope.SOURCE, n, "", "why", "ann", WHEN) for n in (1, 2)]),
    ],
)
def test_a_sender_whose_every_source_is_held_is_held(holds: HoldSet) -> None:
    assert left(holds) == []
    assert held_senders(POLICY, holds) == [1]


def test_a_sender_that_had_no_source_anyway_is_not_said_to_be_held() -> None:
    empty = replace(POLICY, sources={})
    assert held_senders(empty, held(HoldScope.EVERYTHING)) == []


@pytest.mark.parametrize(
    ("holds", "is_held"),
    [
        (NO_HOLDS, False),
        (held(HoldScope.ISP, 1), True),
        (held(HoldScope.ISP, 2), False),
        (held(HoldScope.POOL, 1), True),
        (held(HoldScope.SOURCE, 1), True),
        (held(HoldScope.SOURCE, 2), False),
        (held(HoldScope.NODE, 0, NODE), True),
        (held(HoldScope.DOMAIN, 0, DOMAIN), True),
        (held(HoldScope.DOMAIN, 0, "other.test"), False),
    ],
)
def test_a_row_is_looked_at_by_lane_by_source_and_by_domain(holds: HoldSet, is_held: bool) -> None:
    assert (hold_on(row(1), POLICY, holds, source=POLICY.sources[1]) is not None) is is_held


def test_a_row_of_a_sender_the_policy_no_longer_has_is_still_held_by_its_account() -> None:
    orphan = replace(row(1), sender_id=99)
    source = POLICY.sources[1]
    assert hold_on(orphan, POLICY, held(HoldScope.ACCOUNT, 1), source=source) is not None
    assert hold_on(orphan, POLICY, held(HoldScope.POOL, 1), source=source) is None

"""What holds cover, and what a filter over the queue means."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mailcore.envelope import QueuedRow
from mailcore.holds import NO_HOLDS, Hold, HoldScope, HoldSet
from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.rowfilter import FilterError, RowFilter
from tests.support.builders import row as any_row

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def queued_row(**changes: int) -> QueuedRow:
    """Return a row, different where said."""
    return replace(any_row(1), **changes)  # type: ignore[arg-type]


def hold(number: int, scope: HoldScope, target_id: int = 0, target: str = "") -> Hold:
    """Return a hold on something."""
    return Hold(number, scope, target_id, target, "why", "ann", WHEN)


def test_nothing_is_held_when_there_are_no_holds() -> None:
    row = queued_row()
    assert NO_HOLDS.is_empty
    assert NO_HOLDS.of_lane(row, pool_id=1) is None
    assert NO_HOLDS.of_source(1, node="n1") is None
    assert NO_HOLDS.of_domain("a.test") is None


@pytest.mark.parametrize(
    ("scope", "field"),
    [
        (HoldScope.SENDER, "sender_id"),
        (HoldScope.ACCOUNT, "account_id"),
        (HoldScope.CAMPAIGN, "campaign_id"),
        (HoldScope.ISP, "isp_id"),
    ],
)
def test_a_hold_on_what_a_lane_is_of_covers_it_and_no_other(scope: HoldScope, field: str) -> None:
    row = queued_row(sender_id=11, account_id=12, campaign_id=13, isp_id=14)
    number = getattr(row, field)
    placed = hold(7, scope, number)
    assert HoldSet.of([placed]).of_lane(row, pool_id=99) is placed
    assert HoldSet.of([hold(7, scope, number + 100)]).of_lane(row, pool_id=99) is None


def test_a_pool_covers_the_lanes_of_its_senders() -> None:
    holds = HoldSet.of([hold(1, HoldScope.POOL, 5)])
    assert holds.of_lane(queued_row(), pool_id=5) is not None
    assert holds.of_lane(queued_row(), pool_id=6) is None


def test_a_source_is_held_by_itself_by_its_node_and_by_everything() -> None:
    assert HoldSet.of([hold(1, HoldScope.SOURCE, 3)]).of_source(3, node="n1") is not None
    assert HoldSet.of([hold(1, HoldScope.SOURCE, 3)]).of_source(4, node="n1") is None
    assert HoldSet.of([hold(1, HoldScope.NODE, 0, "n1")]).of_source(4, node="n1") is not None
    assert HoldSet.of([hold(1, HoldScope.EVERYTHING)]).of_source(4, node="n2") is not None


def test_the_oldest_of_two_holds_on_one_thing_is_the_one_shown() -> None:
    first, second = hold(1, HoldScope.ISP, 3), hold(2, HoldScope.ISP, 3)
    assert HoldSet.of([second, first]).of_lane(queued_row(isp_id=3), pool_id=0) is first


def test_what_a_look_at_the_lanes_leaves_out_is_named_by_number() -> None:
    holds = HoldSet.of(
        [hold(1, HoldScope.SENDER, 4), hold(2, HoldScope.ISP, 9), hold(3, HoldScope.ACCOUNT, 8)]
    )
    left_out = holds.lanes(held_senders=[2])
    assert (left_out.senders, left_out.isps) == ((2, 4), (9,))
    assert (left_out.accounts, left_out.campaigns) == ((8,), ())
    assert HoldSet.of([hold(1, HoldScope.DOMAIN, 0, "a.test")]).domains == {"a.test"}


def test_a_filter_survives_being_kept() -> None:
    given = {
        "senders": [1, 2],
        "domains": ["Accepta.TEST"],
        "classes": ["priority"],
        "states": ["waiting", "unknown"],
        "reasons": ["retry"],
        "messages": ["01a1f8bf-0000-7000-8000-000000000001"],
        "recipients": ["ann@accepta.test"],
        "older_than_s": 60,
    }
    found = RowFilter.parse(given)
    assert found.domains == ("accepta.test",)
    assert found.classes == (MailClass.PRIORITY,)
    assert found.states == (RowState.WAITING, RowState.UNKNOWN)
    assert found.reasons == (WaitReason.RETRY,)
    assert not found.is_of_lanes
    assert RowFilter.parse(found.to_dict()) == found
    assert RowFilter.parse({"isps": [3]}).is_of_lanes


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, ""),
        ({"states": ["waiting"]}, ""),
        ({"everything": True, "senders": [1]}, "everything"),
        ({"everything": "yes"}, "everything"),
        ({"sender": [1]}, "sender"),
        ({"senders": 1}, "senders"),
        ({"senders": [True]}, "senders"),
        ({"senders": [-1]}, "senders"),
        ({"senders": list(range(501))}, "senders"),
        ({"domains": ["a b"]}, "domains"),
        ({"sites": [""]}, "sites"),
        ({"recipients": ["a\x00@b.test"]}, "recipients"),
        ({"classes": ["fast"]}, "classes"),
        ({"states": ["leased"]}, "states"),
        ({"reasons": ["mood"]}, "reasons"),
        ({"messages": ["17"]}, "messages"),
        ({"older_than_s": "1h"}, "older_than_s"),
        ({"older_than_s": float("nan")}, "older_than_s"),
    ],
)
def test_a_filter_that_cannot_be_meant_names_the_member(
    given: dict[str, object], field: str
) -> None:
    with pytest.raises(FilterError) as refused:
        RowFilter.parse(given)
    assert refused.value.field == field


def test_a_filter_in_words_says_what_is_meant() -> None:
    assert RowFilter.parse({"everything": True}).words() == "everything"
    found = RowFilter.parse({"domains": ["a.test"], "older_than_s": 60})
    assert found.words() == "domains a.test; older_than_s 60.0"

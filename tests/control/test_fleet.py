"""The account of a campaign: each recipient has one end, each report counts once."""

from collections.abc import Iterable
from typing import Any

from control.management.fleet.reckoning import Evidence, Offered, Reckoning, reckon

Told = tuple[str, str, int]
# What our statistics say where a test is about something else.
DELIVERED = ("delivered", "a@x.test", 1)


def fact(recipient: str, fate: str = "accepted", **other: Any) -> dict[str, Any]:
    reply = {"accepted": "250 2.0.0 ok", "refused": "550 5.1.1 no"}.get(fate)
    return {"recipient": recipient, "fate": fate, "reply": reply, "at": 12.0, **other}


def account(
    *facts: dict[str, Any],
    accepted: Iterable[str] = ("a@x.test",),
    told: Iterable[Told] = (),
    reports: Iterable[tuple[str, str]] = (),
    queued: Iterable[str] = (),
    wire: frozenset[str] | None = None,
) -> Reckoning:
    """Reckon recipients of an ISP X, offered at 10 s; those of y.test are of Y."""
    offered = {one: Offered("Y" if one.endswith("y.test") else "X", 10.0) for one in accepted}
    return reckon(
        Evidence(
            offered=offered,
            facts=facts,
            reports=[{"kind": kind, "recipient": one} for kind, one in reports],
            told=tuple(told),
            queued=frozenset(queued),
            on_the_wire=wire,
        ),
        isps=["X", "Y"],
    )


def test_a_campaign_is_good_when_each_message_came_to_one_end() -> None:
    found = account(
        fact("a@x.test"),
        fact("b@x.test", "refused"),
        accepted=["a@x.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test"],
        told=[
            *(DELIVERED, ("bounced", "b@x.test", 1), ("expired", "c@x.test", 1)),
            *(("stopped", "d@x.test", 1), ("purged", "e@x.test", 1)),
        ],
    )
    assert found.is_good
    assert found.line == (
        "accepted=5 delivered=1 bounced=1 expired=1 stopped=1 purged=1 queued=0 unaccounted=0 "
        "misreported=0 duplicated=0 repeated=0 lost_replies=0 reports=0 counted_once=0"
    )


def test_a_message_nobody_can_point_at_is_unaccounted() -> None:
    found = account(fact("a@x.test", "deferred"))
    assert "queued=0 unaccounted=1" in found.line
    assert not found.is_good


def test_a_fleet_that_delivers_nothing_is_not_good_though_all_is_accounted_for() -> None:
    found = account(queued=["a@x.test"])
    assert "queued=1 unaccounted=0" in found.line
    assert not found.is_good


def test_what_a_receiver_took_is_delivered_though_we_stopped_the_repeat() -> None:
    lost = fact("a@x.test", reply=None)
    found = account(lost, told=[("stopped", "a@x.test", 1)])
    assert "delivered=1 bounced=0 expired=0 stopped=0" in found.line
    assert found.is_good


def test_a_copy_after_a_lost_reply_is_repeated_and_any_other_is_duplicated() -> None:
    lost = fact("a@x.test", reply=None)
    repeated = account(lost, fact("a@x.test"), told=[DELIVERED])
    assert "duplicated=0 repeated=1 lost_replies=1" in repeated.line
    assert repeated.is_good
    both = account(lost, fact("a@x.test"), fact("a@x.test"), told=[DELIVERED])
    assert "duplicated=1 repeated=1 lost_replies=1" in both.line
    assert both.faults == ["1 duplicated: a@x.test"]


def test_after_a_kill_as_much_may_arrive_twice_as_was_on_the_wire_and_no_more() -> None:
    twice = [fact("a@x.test"), fact("a@x.test")]
    fair = account(*twice, told=[DELIVERED], wire=frozenset({"a@x.test", "stranger@x.test"}))
    assert "duplicated=1 on_the_wire=1 " in fair.line
    assert "duplicated <= on_the_wire" in fair.demand
    assert fair.is_good
    assert not account(*twice, told=[DELIVERED], wire=frozenset()).is_good
    assert not account(*twice, told=[DELIVERED]).is_good


def test_every_report_of_the_lab_must_be_counted_once_and_no_other() -> None:
    late = [("late_bounced", "a@x.test"), ("complained", "stranger@x.test")]
    counted = [DELIVERED, ("late_bounced", "a@x.test", 1)]
    once = account(fact("a@x.test"), reports=late, told=counted)
    assert "reports=1 counted_once=1" in once.line
    assert once.is_good
    for told, fault in (
        ([], "1 reports not counted once: a@x.test"),
        ([("late_bounced", "a@x.test", 2)], "1 reports not counted once: a@x.test"),
        (
            [("late_bounced", "a@x.test", 1), ("complained", "a@x.test", 1)],
            "1 reports counted that no receiver wrote: a@x.test",
        ),
    ):
        found = account(fact("a@x.test"), reports=late, told=[DELIVERED, *told])
        assert found.faults == [fault]


def test_our_statistics_must_tell_what_the_receivers_saw_and_once() -> None:
    for told in (
        [],
        [("bounced", "a@x.test", 1)],
        [("delivered", "a@x.test", 2)],
        [DELIVERED, ("expired", "a@x.test", 1)],
    ):
        found = account(fact("a@x.test"), told=told)
        assert "delivered=1 " in found.line
        assert "misreported=1 " in found.line
        assert found.faults == ["1 misreported: a@x.test"]


def test_of_many_recipients_some_are_named() -> None:
    many = [f"{n}@x.test" for n in range(7)]
    (fault,) = account(accepted=many).faults
    assert fault == f"7 unaccounted: {', '.join(many[:5])} …"


def test_the_table_has_a_line_for_each_isp_and_their_sums() -> None:
    found = account(
        fact("a@x.test"),
        fact("a@x.test", at=99.0),
        fact("b@x.test", at=14.5),
        fact("c@y.test", "refused"),
        accepted=["a@x.test", "b@x.test", "c@y.test"],
        told=[("deferred", "b@x.test", 3)],
        reports=[("complained", "b@x.test")],
    )
    _, head, *rows = found.table().splitlines()
    assert {len(line) for line in rows} == {len(head)}
    assert [row.split() for row in rows] == [
        ["X", "2", "2", "0", "1", "0", "1", "1", "4.5", "4.5"],
        ["Y", "1", "0", "1", "0", "0", "0", "0", "-", "-"],
        ["total", "3", "2", "1", "1", "0", "1", "1", "4.5", "4.5"],
    ]


def test_the_table_fits_80_columns_and_shows_what_is_queued_when_something_is() -> None:
    recipients = [f"{n}@x.test" for n in range(99_999)]
    found = account(*(fact(one) for one in recipients), accepted=recipients)
    assert max(map(len, found.table().splitlines())) <= 80
    assert "queued" not in found.table()
    assert "queued" in account(queued=["a@x.test"]).table()

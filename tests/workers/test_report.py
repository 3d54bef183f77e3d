"""Reports to senders: each once, whatever is repeated, and never one that leads to another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailcore.dsn import DsnOrder, Notify
from mailcore.errors import SchemaError
from mailcore.events import Event, EventKind, encode_lines
from mailcore.policy.model import Account
from mailcore.ports import StoreUnavailable
from tests.support import builders
from tests.support.reporting import NOW_MS, MemoryReportDoor, event, facts, reporter

HOUR_MS = 3_600_000


def told(*events: Event, door: MemoryReportDoor | None = None) -> list[str]:
    """Return the keys of what is queued of these events, without the message's id."""
    door = door or MemoryReportDoor()
    reporter(door).tell([encode_lines(events)])
    return [mail.key.split(":", 2)[2] for mail in door.queued]


def ordered(*notify: Notify) -> DsnOrder:
    return DsnOrder(notify=frozenset(notify))


def test_a_failure_is_reported_to_the_sender_with_the_null_reverse_path() -> None:
    door = MemoryReportDoor()
    assert told(event(), door=door) == ["0:failed"]
    submission = door.queued[0].submission
    assert str(submission.recipients[0].address) == "news@sender.test"
    assert submission.reverse_path.is_null
    assert (submission.account_id, submission.sender_id) == (1, 1)
    assert submission.header_from == "sender.test"
    assert submission.content.startswith(
        b"From: Mail Delivery System <mailer-daemon@sender.test>\r\nTo: <news@sender.test>\r\n"
    )
    assert b"\r\nAuto-Submitted: auto-replied\r\n" in submission.content


def test_a_report_leads_to_no_report() -> None:
    door = MemoryReportDoor()
    told(event(), door=door)
    assert door.queued[0].submission.recipients[0].dsn == ""


def test_the_same_batch_applied_twice_sends_one_report_of_each_recipient() -> None:
    door = MemoryReportDoor()
    body = encode_lines([event(), event(recipient_no=1)])
    for _ in range(2):
        reporter(door).tell([body, body])
    assert [mail.key for mail in door.queued] == [
        f"report:{event().message_id}:0:failed",
        f"report:{event().message_id}:1:failed",
    ]


def test_a_failure_that_is_heard_of_again_later_is_told_once() -> None:
    door = MemoryReportDoor()
    assert told(event(), door=door) == told(event("late_bounced", stage="dsn"), door=door)


@pytest.mark.parametrize("kind", ["bounced", "expired", "stopped", "purged", "late_bounced"])
def test_all_that_ends_without_delivery_is_a_failure(kind: str) -> None:
    assert told(event(kind)) == ["0:failed"]
    assert told(event(kind, dsn=facts(ordered(Notify.FAILURE)))) == ["0:failed"]
    assert told(event(kind, dsn=facts(ordered(Notify.NEVER)))) == []
    assert told(event(kind, dsn=facts(ordered(Notify.SUCCESS, Notify.DELAY)))) == []


@pytest.mark.parametrize("kind", [kind.value for kind in EventKind])
def test_nobody_is_told_of_mail_that_came_by_http_or_has_no_sender(kind: str) -> None:
    order = ordered(Notify.SUCCESS, Notify.FAILURE, Notify.DELAY)
    old = NOW_MS - 9 * HOUR_MS
    assert told(event(kind, accepted_ms=old, dsn="")) == []
    assert told(event(kind, accepted_ms=old, dsn=facts(order, reverse_path=""))) == []


def test_an_account_is_not_told_of_its_own_purge() -> None:
    assert told(event("purged", rule="account")) == []


def test_success_is_told_where_the_next_server_will_not_tell_it() -> None:
    wanted = ordered(Notify.SUCCESS)
    assert told(event("delivered", dsn=facts(wanted))) == ["0:relayed"]
    assert told(event("delivered", dsn=facts(wanted, is_passed_on=True))) == []
    assert told(event("delivered")) == []


def test_a_delay_is_told_once_after_four_hours() -> None:
    door = MemoryReportDoor()
    dsn = facts(ordered(Notify.DELAY))
    late = NOW_MS - 4 * HOUR_MS
    assert told(event("deferred", accepted_ms=late + 1, dsn=dsn), door=door) == []
    assert told(event("deferred", accepted_ms=late), door=door) == []
    assert told(event("deferred", accepted_ms=late, dsn=dsn), door=door) == ["0:delayed"]
    again = event("deferred", claim_no=2, accepted_ms=late - HOUR_MS, dsn=dsn)
    assert told(again, door=door) == ["0:delayed"]
    assert door.submits == [1]


def test_a_message_for_later_is_late_from_the_time_it_was_meant_for() -> None:
    accepted_ms = NOW_MS - 9 * HOUR_MS
    order = replace(ordered(Notify.DELAY), due_ms=NOW_MS - HOUR_MS)
    assert told(event("deferred", accepted_ms=accepted_ms, dsn=facts(order))) == []


def policy_with(account: Account) -> list[str]:
    door = MemoryReportDoor()
    policy = replace(builders.policy(), accounts={1: account})
    reporter(door, policy).tell([encode_lines([event()])])
    return [mail.key for mail in door.queued]


def test_an_account_that_takes_events_only_gets_no_report() -> None:
    account = builders.policy().accounts[1]
    assert len(policy_with(account)) == 1
    assert policy_with(replace(account, mails_reports=False)) == []
    assert policy_with(replace(account, is_active=False)) == []


def test_a_sender_that_is_gone_is_replaced_by_the_accounts_own() -> None:
    door = MemoryReportDoor()
    told(event(sender_id=99, header_from="lost.test"), door=door)
    submission = door.queued[0].submission
    assert submission.sender_id == 1
    assert submission.header_from == "mx.sender.test"  # no domain of the account: ours


def test_an_event_that_cannot_be_read_costs_the_others_nothing() -> None:
    good = event(recipient_no=1)
    for bad in ("S Cnonsense", "S Pa@b.test", "S NQ P C1.2.3.4", "S P+FF C1.2.3.4"):
        assert told(event(dsn=bad), good) == ["1:failed"]
    assert told(event(dsn=facts(reverse_path="no address")), good) == ["1:failed"]


def test_a_report_that_cannot_be_stored_costs_the_others_nothing() -> None:
    door = MemoryReportDoor(unstorable=":1:failed")
    told(*(event(recipient_no=number) for number in range(3)), door=door)
    assert [mail.key[-8:] for mail in door.queued] == ["0:failed", "2:failed"]


def test_reports_wait_for_a_store_that_is_away() -> None:
    door = MemoryReportDoor(is_away=True)
    with pytest.raises(StoreUnavailable):
        told(event(), door=door)


def test_a_damaged_body_is_for_the_consumer_to_set_aside() -> None:
    with pytest.raises(SchemaError):
        reporter().tell([b"nothing of ours"])


def test_many_reports_go_in_several_commits() -> None:
    door = MemoryReportDoor()
    events = [event(recipient_no=number) for number in range(5)]
    assert reporter(door, chunk=2).tell([encode_lines(events)]) == 5
    assert door.submits == [2, 2, 1]

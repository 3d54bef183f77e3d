"""The queue by reason: exact where it is small, in proportion where it is not."""

import uuid
from collections.abc import Sequence
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from control.queue.models import Hold
from control.reports.waiting import WaitRow, waiting_now
from mailcore.outcome import WaitReason
from mailcore.ports import StoreUnavailable

pytestmark = pytest.mark.django_db


def lane(**columns: int) -> int:
    named = {"sender_id": 1, "account_id": 1, "campaign_id": 0, "isp_id": 0, **columns}
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_lane (sender_id, account_id, campaign_id, isp_id, mail_class, site)"
            " VALUES (%(sender_id)s, %(account_id)s, %(campaign_id)s, %(isp_id)s, 1, %(site)s)"
            " RETURNING id",
            {**named, "site": uuid.uuid4().hex},
        )
        return int(cursor.fetchone()[0])


def put(lane_id: int, reason: WaitReason, count: int, *, state: int = 0, due_s: int = -1) -> None:
    column = ("waiting", "leased", "unknown")[state]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_row (lane_id, state, recipient_no, due_at, expires_at, message_id,"
            " content_segment, content_offset, content_length, content_crc, recipient,"
            " reverse_path, header_from, message_id_header, reason)"
            " SELECT %s, %s, n, now() + make_interval(secs => %s), now() + interval '1 day', %s,"
            " 1, 0, 1, 0, 'a@b.test', '', '', '', %s FROM generate_series(1, %s) AS n",
            [lane_id, state, due_s, str(uuid.uuid4()), reason.value, count],
        )
        cursor.execute(
            f"UPDATE ledger_lane SET {column} = {column} + %s WHERE id = %s",  # noqa: S608
            [count, lane_id],
        )


def counts(rows: Sequence[WaitRow]) -> dict[str, int]:
    return {str(row.label): row.count for row in rows}


def test_rows_are_counted_by_reason_and_whether_they_are_due() -> None:
    one = lane()
    put(one, WaitReason.RETRY, 5, due_s=600)
    put(one, WaitReason.RETRY, 2)
    put(one, WaitReason.NEW, 3)
    put(one, WaitReason.NEW, 4, state=1)
    put(one, WaitReason.UNKNOWN_OUTCOME, 1, state=2)
    waiting = waiting_now({})
    assert counts(waiting.rows) == {
        "resting before a retry": 5,
        "with a worker": 4,
        "ready to be sent": 3,
        "retry, due now": 2,
        "outcome unknown": 1,
    }
    assert (waiting.total, waiting.is_estimated) == (15, False)
    assert all(str(row.advice) for row in waiting.rows)


@pytest.mark.parametrize("name", ["account_id", "campaign_id", "isp_id", "sender_id"])
def test_a_filter_looks_at_its_lanes_only(name: str) -> None:
    put(lane(**{name: 7}), WaitReason.NEW, 2)
    put(lane(**{name: 8}), WaitReason.NEW, 9)
    assert waiting_now({name: 7}).total == 2


@pytest.mark.parametrize("reason", WaitReason)
@pytest.mark.parametrize("due_s", [-1, 600])
def test_every_reason_has_words_due_or_not(reason: WaitReason, due_s: int) -> None:
    put(lane(), reason, 1, due_s=due_s)
    (row,) = waiting_now({}).rows
    assert "_" not in str(row.label)
    assert str(row.advice)


def test_a_large_queue_is_estimated_in_proportion_to_what_its_lanes_count() -> None:
    one = lane()
    put(one, WaitReason.RETRY, 30, due_s=600)
    put(one, WaitReason.NEW, 10)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_lane SET waiting = 4000000 WHERE id = %s", [one])
    waiting = waiting_now({}, counted_up_to=10)
    assert waiting.is_estimated
    assert waiting.total == 4_000_000


def test_a_sample_that_meets_nothing_still_tells_how_many_wait() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_lane SET waiting = 70 WHERE id = %s", [lane()])
    waiting = waiting_now({}, counted_up_to=10)
    assert counts(waiting.rows) == {"waiting": 70}


def test_an_empty_queue_has_no_rows() -> None:
    assert waiting_now({}).rows == []


def test_a_database_that_does_not_answer_in_time_is_named() -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE ledger_lane RENAME TO ledger_lane_gone")
        with pytest.raises(StoreUnavailable, match="ledger_lane"):
            waiting_now({})
        transaction.set_rollback(True)


def held(scope: str, target_id: int, target: str = "") -> None:
    Hold.objects.create(scope=scope, target_id=target_id, target=target, reason="x", author="test")


def test_what_lanes_hold_is_one_reason_and_the_rest_keep_theirs() -> None:
    put(lane(isp_id=7), WaitReason.RETRY, 5, due_s=600)
    put(lane(isp_id=8), WaitReason.NEW, 2)
    parked = lane(isp_id=9)
    put(parked, WaitReason.HELD, 3)
    held("isp", 7)
    waiting = waiting_now({})
    assert counts(waiting.rows) == {"held": 8, "ready to be sent": 2}
    assert waiting.total == 10
    held("everything", 0)
    assert counts(waiting_now({}).rows) == {"held": 10}
    assert counts(waiting_now({}, counted_up_to=1).rows) == {"held": 10}


def test_a_hold_that_was_released_or_has_ended_holds_nothing() -> None:
    put(lane(account_id=7), WaitReason.NEW, 2)
    held("account", 7)
    Hold.objects.update(released_at=timezone.now())
    held("account", 7)
    Hold.objects.filter(released_at=None).update(ends_at=timezone.now() - timedelta(seconds=1))
    assert counts(waiting_now({}).rows) == {"ready to be sent": 2}

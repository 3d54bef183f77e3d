"""Claiming, settling, leading: what a delivery process does to the queue."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from mailcore.address import ForwardPath, ReversePath
from mailcore.envelope import ContentRef
from mailcore.outcome import MailClass, RowState, TlsNeed, WaitReason
from mailcore.ports import Clock, Defer, Finish, LaneClaim, Ledger, Settlement, StoreUnavailable
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from tests.io.ledger import world
from tests.io.ledger.proxy import BreakingLine
from tests.io.ledger.world import accept, claim_all, ends, message, query, waits


def test_it_is_the_ledger_the_engines_ask_for(ledger: PgLedger) -> None:
    port: Ledger = ledger
    clock: Clock = ledger.clock
    assert port is ledger
    assert clock.now().tzinfo is UTC


async def test_a_claimed_row_carries_all_a_delivery_needs(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    number = acceptor.campaign_ids(5, ["spring"])["spring"]
    sent = message(
        '"a@b"@one.test',
        account_id=5,
        sender_id=6,
        campaign_id=number,
        reverse_path="",
        mail_class=MailClass.PRIORITY,
        tls_need=TlsNeed.REQUIRED,
        content=ContentRef(2**50, 2**40, 99, 2**32 - 1),
        custom='{"a":"b"}',
        expires_at=datetime(2099, 1, 1, tzinfo=UTC),
    )
    accept(acceptor, sent)
    (lane,) = await ledger.due_lanes(limit=5)
    assert (lane.site, lane.account_id, lane.sender_id, lane.campaign_id, lane.waiting) == (
        "mx.one.test",
        5,
        6,
        number,
        1,
    )
    assert (lane.mail_class, lane.tls_need, lane.isp_id, lane.has_retries) == (
        MailClass.PRIORITY,
        TlsNeed.REQUIRED,
        3,
        False,
    )
    (row,) = await claim_all(ledger, incarnation)
    assert row.message_id == sent.message_id
    assert row.recipient == ForwardPath('"a@b"', "one.test")
    assert row.reverse_path == ReversePath("", "")
    assert row.content == sent.content
    assert (row.campaign, row.campaign_id, row.site, row.isp_id) == ("spring", number, lane.site, 3)
    assert (row.state, row.attempt, row.claim_no) == (RowState.LEASED, 0, 1)
    assert row.expires_at == datetime(2099, 1, 1, tzinfo=UTC)
    assert (row.custom, row.header_from) == ('{"a":"b"}', "from.test")
    assert await ledger.rows_by_id([row.id, 999]) == [row]
    world.assert_counts_agree()


async def test_a_claim_keeps_to_budgets_due_times_and_order(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    for name in ("a", "b", "c"):
        accept(acceptor, message(f"{name}@one.test"))
    accept(acceptor, message("x@two.test"), message("later@one.test", delay_s=60))
    lanes = {lane.site: lane for lane in await ledger.due_lanes(limit=10)}
    rows = await ledger.claim(
        [LaneClaim(lanes["mx.one.test"].id, 2), LaneClaim(lanes["mx.two.test"].id, 0)],
        incarnation=incarnation,
    )
    assert [row.recipient.local_part for row in rows] == ["a", "b"]
    assert [lane.waiting for lane in await ledger.due_lanes(limit=10)] == [2, 1]
    await claim_all(ledger, incarnation)
    assert await ledger.due_lanes(limit=10) == []  # the row of the future is looked at then
    world.assert_counts_agree()
    due = query(
        "SELECT l.next_due_at = r.due_at FROM ledger_lane l JOIN ledger_row r"
        " ON r.lane_id = l.id WHERE r.state = 0"
    )
    assert due == [(True,)]


async def test_rows_below_a_low_mark_are_seen_again_soon(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("old@one.test"))
    query("UPDATE ledger_row SET due_at = due_at - interval '10 s'")
    (lane,) = await ledger.due_lanes(limit=5)
    low = datetime.now(UTC)
    assert await ledger.claim([LaneClaim(lane.id, 5, low)], incarnation=incarnation) == []
    query("UPDATE ledger_lane SET next_due_at = next_due_at - interval '5 s'")  # time passes
    assert [row.recipient.local_part for row in await claim_all(ledger, incarnation)] == ["old"]


async def test_an_expired_row_is_claimed_too(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test", lifetime_s=0.0))
    (row,) = await claim_all(ledger, incarnation)
    assert row.expires_at <= row.due_at


async def test_an_end_is_true_whatever_became_of_the_claim(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(3)))
    rows = await claim_all(ledger, incarnation)
    query("UPDATE ledger_row SET state = 0, claim_no = 9 WHERE id = %s", rows[0].id)
    query("UPDATE ledger_row SET state = 2 WHERE id = %s", rows[1].id)
    query("UPDATE ledger_lane SET waiting = 1, leased = 1, unknown = 1")
    assert await ledger.settle(ends(rows)) == 3
    assert await ledger.settle(ends(rows)) == 0
    assert query("SELECT waiting, leased, unknown FROM ledger_lane") == [(0, 0, 0)]


async def test_a_deferral_waits_with_its_reason_and_reply(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(4)))
    rows = await claim_all(ledger, incarnation)
    first = Defer(rows[0].id, 1, 30.0, WaitReason.RETRY, "451 4.7.1 \0later\udcff", 7)
    back = Defer(rows[1].id, 1, 0.0, WaitReason.RETURNED, counts_attempt=False)
    lost = Defer(rows[2].id, 1, 60.0, WaitReason.UNKNOWN_OUTCOME, state=RowState.UNKNOWN)
    fenced = Defer(rows[3].id, 2, 0.0, WaitReason.RETRY)
    settlement = Settlement([], [first, back, lost, fenced], b"told", 4)
    assert await ledger.settle(settlement) == 3
    assert query(
        "SELECT state, attempt, reason, last_reply, pinned_source_id, incarnation IS NULL,"
        " due_at > now() FROM ledger_row ORDER BY id"
    ) == [
        (0, 1, "retry", "451 4.7.1 later?", 7, True, True),
        (0, 0, "returned", "", None, True, False),
        (2, 1, "unknown_outcome", "", None, True, True),
        (1, 0, "new", "", None, False, False),
    ]
    told = query("SELECT event_count, body FROM ledger_outbox ORDER BY id DESC LIMIT 1")
    assert [(count, bytes(body)) for count, body in told] == [(4, b"told")]
    world.assert_counts_agree()
    assert await ledger.settle(settlement) == 0  # a repeat finds the rows leased no more
    (again,) = await claim_all(ledger, incarnation)
    assert (again.id, again.claim_no) == (rows[1].id, 2)


async def test_a_row_both_ended_and_deferred_has_ended(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"))
    (row,) = await claim_all(ledger, incarnation)
    both = Settlement([Finish(row.id)], [Defer(row.id, 1, 0, WaitReason.RETRY)], b"", 0)
    assert await ledger.settle(both) == 1
    assert query("SELECT count(*) FROM ledger_outbox WHERE batch_id IS NULL") == [(0,)]
    world.assert_counts_agree()


async def test_a_lane_tells_deferred_bulk_from_new(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"))
    await ledger.settle(waits(await claim_all(ledger, incarnation)))
    (lane,) = await ledger.due_lanes(limit=5)
    assert lane.has_retries


async def test_lanes_are_found_by_site_class_and_sender(
    acceptor: Acceptor, ledger: PgLedger
) -> None:
    accept(
        acceptor,
        message("a@one.test"),
        message("a@one.test", sender_id=2),
        message("a@one.test", mail_class=MailClass.PRIORITY),
        message("a@two.test", delay_s=60),
        message("a@three.test", site=""),
    )
    sites = ["mx.one.test", "mx.two.test", ""]
    lanes = await ledger.lanes_of_sites(sites, mail_class=MailClass.MAIN, sender_ids=[1, 9])
    assert [(lane.site, lane.sender_id) for lane in lanes] == [("mx.one.test", 1)]
    assert len(await ledger.due_lanes(limit=10)) == 3
    assert len(await ledger.due_lanes(limit=2)) == 2


async def test_a_dead_incarnation_takes_nothing_and_knows(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"))
    assert await ledger.heartbeat(incarnation)
    assert ledger.clock.is_observed
    query("UPDATE ledger_incarnation SET heartbeat_at = '-infinity'")
    assert not await ledger.heartbeat(incarnation)
    assert await claim_all(ledger, incarnation) == []
    world.assert_counts_agree()


async def test_an_incarnation_retires_once_it_holds_nothing(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"))
    rows = await claim_all(ledger, incarnation)
    with pytest.raises(StoreUnavailable, match=f"incarnation {incarnation} holds 1 rows"):
        await ledger.retire(incarnation)
    assert await ledger.heartbeat(incarnation)
    await ledger.settle(ends(rows))
    await ledger.retire(incarnation)
    assert not await ledger.heartbeat(incarnation)


async def test_one_process_leads_until_its_session_is_lost(dsn: str, ledger: PgLedger) -> None:
    other = PgLedger(dsn)
    assert await ledger.try_lead("ringer")
    assert await ledger.try_lead("ringer")
    assert await ledger.try_lead("router")
    assert not await other.try_lead("ringer")
    query(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'postfleet-lead' AND datname = current_database()"
        " AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_stat_activity.pid"
        " AND l.locktype = 'advisory')"
    )
    assert await other.try_lead("ringer")
    assert not await ledger.try_lead("ringer")
    assert await ledger.try_lead("router")
    other.close()


async def test_rows_of_an_unanswered_claim_come_with_the_next(
    dsn: str, acceptor: Acceptor, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"), message("b@one.test"))
    with BreakingLine(dsn) as line:
        side = PgLedger(line.dsn)
        known = await side.claim([LaneClaim(1, 1)], incarnation=incarnation)
        line.break_after_request()
        with pytest.raises(StoreUnavailable):
            await side.claim([LaneClaim(1, 1)], incarnation=incarnation)
        while query("SELECT count(*) FROM ledger_row WHERE state = 1") != [(2,)]:
            await asyncio.sleep(0.01)
        found = await side.claim([LaneClaim(1, 1)], incarnation=incarnation)
        assert [row.recipient.local_part for row in [*known, *found]] == ["a", "b"]
        assert await side.claim([LaneClaim(1, 1)], incarnation=incarnation) == []
        side.close()
    world.assert_counts_agree()


async def test_rows_of_a_cancelled_claim_come_with_the_next(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"))
    task = asyncio.ensure_future(ledger.claim([LaneClaim(1, 5)], incarnation=incarnation))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (row,) = await claim_all(ledger, incarnation)
    assert row.claim_no == 1
    assert await ledger.settle(ends([row])) == 1


async def test_a_settle_survives_a_connection_lost_before_it(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"), message("b@one.test"))
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(ends(rows[:1]))
    query(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'postfleet-settle' AND datname = current_database()"
    )
    assert await ledger.settle(ends(rows[1:])) == 1
    assert query("SELECT count(*) FROM ledger_row") == [(0,)]


async def test_the_stop_list_is_asked_for_many_accounts_at_once(ledger: PgLedger) -> None:
    query(
        "INSERT INTO stop_entry (account_id, recipient_hash, recipient, reason) VALUES"
        " (0, 'all', 'x', 'manual'), (2, 'two', 'x', 'manual')"
    )
    asked = [(1, "all"), (2, "two"), (1, "two"), (3, "none")]
    assert await ledger.stopped(asked) == {(1, "all"), (2, "two")}
    assert await ledger.stopped([]) == set()


async def test_a_closed_ledger_says_so(dsn: str) -> None:
    side = PgLedger(dsn)
    await side.due_lanes(limit=1)
    side.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await side.due_lanes(limit=1)


async def test_a_heartbeat_teaches_the_databases_time(ledger: PgLedger, incarnation: int) -> None:
    await ledger.heartbeat(incarnation)
    apart = abs(ledger.clock.now() - query("SELECT clock_timestamp()")[0][0])
    assert apart < timedelta(seconds=5)

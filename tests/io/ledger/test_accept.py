"""Accepting: all or nothing, exactly once, and what intake may ask before."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from mailcore.outcome import MailClass, TlsNeed
from mailcore.ports import StoreUnavailable
from mailio.ledger.accept import (
    AcceptBatch,
    Acceptor,
    AcceptStatus,
    IdempotencyKey,
    KnownRoute,
    StoredAnswer,
)
from mailio.ledger.delivery import PgLedger
from tests.io.ledger import world
from tests.io.ledger.proxy import BreakingLine
from tests.io.ledger.world import accept, claim_all, message, query


def key(name: str, answer: str, body_hash: bytes = b"hash") -> IdempotencyKey:
    return IdempotencyKey(1, name, body_hash, answer)


def test_each_recipient_has_a_row_and_each_lane_its_count(acceptor: Acceptor) -> None:
    first = message("ann@one.test", "bob@two.test", message_id_header='<"a\\b"@{x},NULL>')
    second = message("eve@one.test", mail_class=MailClass.PRIORITY, tls_need=TlsNeed.REQUIRED)
    result = accept(acceptor, first, second)
    assert result.accepted == {first.message_id, second.message_id}
    rows = query(
        "SELECT r.recipient, r.recipient_no, l.site, l.mail_class, l.tls_need, l.isp_id, l.waiting,"
        " r.message_id_header, r.reason, r.unrouted_domain"
        " FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id ORDER BY r.recipient"
    )
    assert rows == [
        ("ann@one.test", 0, "mx.one.test", 1, 0, 3, 1, '<"a\\b"@{x},NULL>', "new", None),
        ("bob@two.test", 1, "mx.two.test", 1, 0, 3, 1, '<"a\\b"@{x},NULL>', "new", None),
        ("eve@one.test", 0, "mx.one.test", 0, 1, 3, 1, "<1@from.test>", "new", None),
    ]
    outbox = query("SELECT batch_id::text, event_count, body FROM ledger_outbox")
    body = first.message_id.bytes + b"," + second.message_id.bytes
    assert [(b, n, bytes(e)) for b, n, e in outbox] == [(str(first.message_id), 3, body)]
    world.assert_counts_agree()


async def test_what_a_row_is_asked_to_report_is_claimed_with_it(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    plain, asking = message("ann@one.test"), message("bob@one.test", "eve@one.test")
    bob, eve = asking.recipients
    asking = replace(asking, recipients=(replace(bob, dsn='S E"\\{},x'), eve))
    accept(acceptor, plain)
    accept(acceptor, asking, message("joe@one.test"))
    rows = await claim_all(ledger, incarnation)
    assert {str(row.recipient): row.dsn for row in rows} == {
        "ann@one.test": "",
        "bob@one.test": 'S E"\\{},x',
        "eve@one.test": "",
        "joe@one.test": "",
    }


def test_due_and_expiry_follow_the_databases_clock(acceptor: Acceptor) -> None:
    later = datetime.now(UTC) + timedelta(days=2)
    accept(
        acceptor,
        message("past@x.test", send_at=datetime(2001, 1, 1, tzinfo=UTC), lifetime_s=60),
        message("soon@x.test", delay_s=50, lifetime_s=100),
        message("then@x.test", send_at=later, expires_at=later + timedelta(seconds=5)),
        message("what@x.test", site="", delay_s=50),
    )
    rows = query(
        "SELECT split_part(recipient, '@', 1),"
        " round(extract(epoch FROM due_at - accepted_at))::int,"
        " round(extract(epoch FROM expires_at - due_at))::int, reason FROM ledger_row ORDER BY id"
    )
    assert [row[0:1] + row[2:] for row in rows] == [
        ("past", 60, "new"),
        ("soon", 100, "scheduled"),
        ("then", 5, "scheduled"),
        ("what", 3600, "unrouted"),
    ]
    assert [row[1] for row in rows[:2]] == [0, 50]
    assert query("SELECT due_at FROM ledger_row WHERE recipient = 'then@x.test'") == [(later,)]
    world.assert_counts_agree()


def test_an_unrouted_row_keeps_its_domain_whatever_its_local_part(acceptor: Acceptor) -> None:
    accept(acceptor, message('"a@b"@q.test', site=""))
    assert query("SELECT unrouted_domain, recipient FROM ledger_row") == [
        ("q.test", '"a@b"@q.test')
    ]


def test_text_no_database_stores_is_cleaned(acceptor: Acceptor) -> None:
    accept(acceptor, message("a@b.test", custom='{"a":"\x00\x1f\udc80é"}'))
    assert query("SELECT custom FROM ledger_row") == [('{"a":" ?é"}',)]


def test_a_batch_that_is_sent_again_does_nothing(acceptor: Acceptor) -> None:
    batch = AcceptBatch([message("a@b.test"), message("b@b.test")], world.to_events)
    assert acceptor.accept(batch) == acceptor.accept(batch)
    assert query("SELECT count(*) FROM ledger_row") == [(2,)]
    assert query("SELECT count(*) FROM ledger_outbox") == [(1,)]
    world.assert_counts_agree()


def test_an_empty_batch_touches_nothing(acceptor: Acceptor) -> None:
    assert accept(acceptor).messages == ()
    assert query("SELECT count(*) FROM ledger_outbox") == [(0,)]


def test_a_repeat_gets_the_first_answer_and_another_body_is_told(acceptor: Acceptor) -> None:
    accept(acceptor, message(key=key("k", "first")))
    free = message("free@x.test")
    other = message(key=key("other", "own"))
    result = accept(
        acceptor,
        message(key=key("k", "second")),
        free,
        message(key=key("k", "third", b"another")),
        other,
    )
    assert [(m.status, m.answer) for m in result.messages] == [
        (AcceptStatus.REPEATED, "first"),
        (AcceptStatus.ACCEPTED, ""),
        (AcceptStatus.REUSED, ""),
        (AcceptStatus.ACCEPTED, ""),
    ]
    assert query("SELECT count(*) FROM ledger_row") == [(3,)]
    body = query("SELECT body FROM ledger_outbox ORDER BY id DESC LIMIT 1")[0][0]
    assert bytes(body) == free.message_id.bytes + b"," + other.message_id.bytes
    assert acceptor.find_idempotent(1, "k") == StoredAnswer(b"hash", "first")
    assert acceptor.find_idempotent(2, "k") is None
    world.assert_counts_agree()


def test_two_requests_with_one_key_in_one_batch_are_told_apart(acceptor: Acceptor) -> None:
    shared = key("k", "first")
    result = accept(
        acceptor,
        message("a@x.test", key=shared),
        message("b@x.test", key=shared),
        message("a@x.test", key=key("k", "second")),
        message("a@x.test", key=key("k", "third", b"another")),
    )
    assert [m.status.value for m in result.messages] == [
        "accepted",
        "accepted",
        "repeated",
        "reused",
    ]
    assert result.messages[2].answer == "first"
    assert query("SELECT count(*) FROM ledger_row") == [(2,)]


def test_a_key_no_database_stores_as_it_is_still_works(acceptor: Acceptor) -> None:
    odd = "k\0\x1f\udc80"
    first = accept(acceptor, message(key=key(odd, "first\0")))
    again = accept(acceptor, message(key=key(odd, "second")))
    assert [m.status.value for m in first.messages + again.messages] == ["accepted", "repeated"]


def test_eight_threads_with_one_key_are_one_submission(dsn: str) -> None:
    sides = [Acceptor(dsn) for _ in range(8)]
    start = threading.Barrier(8)

    def submit(number: int, round_no: int) -> AcceptStatus:
        start.wait(60)
        own = message(key=key(f"k{round_no}", f"answer of {number}"))
        beside = message(key=key(f"own-{round_no}-{number}", "x"))
        result = accept(sides[number], own, beside)
        assert result.messages[1].status is AcceptStatus.ACCEPTED
        return result.messages[0].status

    with ThreadPoolExecutor(8) as threads:
        for round_no in range(10):
            fates = list(threads.map(submit, range(8), [round_no] * 8))
            assert sorted(fate.value for fate in fates) == ["accepted"] + ["repeated"] * 7
    for side in sides:
        side.close()
    assert query("SELECT count(*) FROM ledger_row") == [(10 + 80,)]
    world.assert_counts_agree()


@pytest.mark.parametrize(
    ("has_key", "spared"), [(False, 0), (True, 0), (True, 1), (True, 2)]
)  # with a key: lost under the keys, under the rows, under COMMIT
def test_an_unanswered_commit_is_looked_up_and_accepted_once(
    dsn: str, has_key: bool, spared: int
) -> None:
    with BreakingLine(dsn) as line:
        side = Acceptor(line.dsn)
        accept(side, message("before@x.test", key=key("k0", "0") if has_key else None))
        line.break_after_request(spared=spared)
        result = accept(
            side,
            message("a@x.test", key=key("k1", "1") if has_key else None),
            message("b@x.test", key=key("k0", "2") if has_key else None),
        )
        assert line.was_broken.is_set()
        second = AcceptStatus.REPEATED if has_key else AcceptStatus.ACCEPTED
        assert [m.status for m in result.messages] == [AcceptStatus.ACCEPTED, second]
        side.close()
    assert query("SELECT count(*) FROM ledger_row") == [(2 if has_key else 3,)]
    assert query("SELECT count(*) FROM ledger_outbox") == [(2,)]
    world.assert_counts_agree()


def test_an_accept_that_is_still_under_way_is_waited_for(dsn: str) -> None:
    with BreakingLine(dsn) as line, ThreadPoolExecutor(1) as thread:
        side = Acceptor(line.dsn)
        accept(side, message("before@x.test"))
        blocker = psycopg2.connect(dsn)
        with blocker.cursor() as cursor:
            cursor.execute("SELECT 1 FROM ledger_lane FOR UPDATE")
        line.break_after_request()
        future = thread.submit(accept, side, message("a@x.test"))
        assert line.was_broken.wait(60)
        waiting = 0
        while waiting < 2:  # the first try at the lane, the second at the first's batch id
            waiting = query(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postfleet-accept'"
                " AND wait_event_type = 'Lock' AND datname = current_database()"
            )[0][0]
        assert not future.done()
        blocker.rollback()
        blocker.close()
        assert len(future.result(10).accepted) == 1
        side.close()
    assert query("SELECT count(*) FROM ledger_row") == [(2,)]
    world.assert_counts_agree()


def test_a_request_that_never_arrived_is_sent_again(dsn: str) -> None:
    with BreakingLine(dsn) as line:
        side = Acceptor(line.dsn)
        accept(side, message("before@x.test"))
        line.break_before_request()
        accept(side, message("a@x.test"))
        side.close()
    assert query("SELECT count(*) FROM ledger_row") == [(2,)]


def test_an_unreachable_database_is_said_so_at_once() -> None:
    side = Acceptor("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable, match="postgresql"):
        accept(side, message())
    side.close()


def test_threads_that_share_lanes_in_any_order_do_not_deadlock(dsn: str) -> None:
    sides = [Acceptor(dsn) for _ in range(4)]
    domains = [f"d{n}.test" for n in range(30)]

    def submit(number: int) -> int:
        ordered = domains if number % 2 else domains[::-1]
        for _ in range(25):
            accept(sides[number], *(message(f"a@{domain}") for domain in ordered))
        return 25 * len(domains)

    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = query(deadlocks)
    with ThreadPoolExecutor(4) as threads:
        total = sum(threads.map(submit, range(4)))
    for side in sides:
        side.close()
    assert query(deadlocks) == before
    assert query("SELECT sum(waiting) FROM ledger_lane") == [(total,)]
    world.assert_counts_agree()


def test_campaigns_are_made_once_and_numbered_for_ever(dsn: str, acceptor: Acceptor) -> None:
    first = acceptor.campaign_ids(1, ["a", "b"])
    assert acceptor.campaign_ids(1, ["b", "c"])["b"] == first["b"]
    assert acceptor.campaign_ids(2, ["a"])["a"] != first["a"]
    assert acceptor.campaign_ids(1, []) == {}
    odd = acceptor.campaign_ids(1, ["odd\0\x1f\udc80"])
    assert odd == acceptor.campaign_ids(1, ["odd\0\x1f\udc80"])
    other = Acceptor(dsn)
    assert other.campaign_ids(1, ["a", "b"]) == first
    other.close()


def test_a_known_route_counts_until_it_expires(acceptor: Acceptor) -> None:
    query(
        "INSERT INTO ledger_route VALUES ('a.test', 'mx.test', 7, now() + interval '1 hour'),"
        " ('old.test', 'mx.test', 7, now() - interval '1 second')"
    )
    expected = {"a.test": KnownRoute("mx.test", 7)}
    assert acceptor.known_routes(["a.test", "old.test", "no.test"]) == expected
    query("DELETE FROM ledger_route")
    assert acceptor.known_routes(["a.test"]) == expected  # cached for a short while


def test_stop_entries_hold_for_their_account_or_for_all_until_they_expire(
    acceptor: Acceptor,
) -> None:
    query(
        "INSERT INTO stop_entry (account_id, recipient_hash, recipient, reason, expires_at) VALUES"
        " (0, 'all', 'x', 'manual', NULL), (1, 'mine', 'x', 'complaint', now() + '1 hour'),"
        " (2, 'theirs', 'x', 'manual', NULL), (1, 'over', 'x', 'manual', now() - '1 s'::interval),"
        " (0, 'both', 'x', 'manual', NULL), (1, 'both', 'x', 'unsubscribed', NULL)"
    )
    found = acceptor.stopped(1, ["all", "mine", "theirs", "over", "both", "none"])
    assert {key: (stop.account_id, stop.reason) for key, stop in found.items()} == {
        "all": (0, "manual"),
        "mine": (1, "complaint"),
        "both": (1, "unsubscribed"),
    }
    assert acceptor.stopped(1, []) == {}

"""What operators do to the queue by filter: count, purge, expire, retry now, undo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.ports import DomainRoute
from mailcore.reply import SmtpReply
from mailcore.rowfilter import RowFilter
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.scan import Meant, Position
from mailio.ledger.upkeep import LedgerUpkeep
from mailio.ledger.verbs import QueueVerbs, VerbStep
from tests.io.ledger import world
from tests.io.ledger.verbs import (
    ALL,
    BOTH_STATES,
    REPLY,
    RULES,
    count,
    kinds,
    now,
    purge,
    recipients,
    retry,
    through,
    told,
    undo,
)
from tests.io.ledger.world import accept, claim_all, ends, message, query, waits


@pytest.fixture
def verbs(dsn: str) -> Iterator[QueueVerbs]:
    """Steps so small that a few rows take several."""
    side = QueueVerbs(dsn, node="n1", looked_at=7, changed=3)
    yield side
    side.close()


# ── which rows are meant ──────────────────────────────────────────────────────────────────────


def test_everything_is_met_once_in_steps_across_many_lanes(
    acceptor: Acceptor, verbs: QueueVerbs
) -> None:
    accept(acceptor, *(message(f"{n}@d{n % 11}.test") for n in range(60)))
    accept(acceptor, *(message(f"{n}@one.test", delay_s=n % 3) for n in range(40)))
    total = count(verbs, ALL)
    assert (total.examined, total.matched) == (100, 100)
    assert total.steps >= 100 / 7
    assert verbs.estimate(ALL) == 100
    assert len(recipients()) == 100


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (RowFilter(senders=(2,)), "b c"),
        (RowFilter(accounts=(2, 9)), "c"),
        (RowFilter(campaigns=(5,)), "d"),
        (RowFilter(isps=(3,), sites=("mx.two.test",)), "b d"),
        (RowFilter(classes=(MailClass.PRIORITY,)), "e"),
        (RowFilter(domains=("three.test",)), "c"),
        (RowFilter(recipients=("a@one.test",)), "a"),
        (RowFilter(reasons=(WaitReason.SCHEDULED,)), "e f"),
        (RowFilter(reasons=(WaitReason.UNROUTED,)), "c"),
        (RowFilter(senders=(2,), domains=("two.test",)), "b"),
        (RowFilter(older_than_s=60, everything=False), ""),
    ],
)
def test_a_filter_means_what_meets_all_of_its_fields(
    acceptor: Acceptor, verbs: QueueVerbs, wanted: RowFilter, expected: str
) -> None:
    accept(
        acceptor,
        message("A@one.test"),
        message("b@two.test", sender_id=2),
        message("c@three.test", sender_id=2, account_id=2, site=""),
        message("d@two.test", campaign_id=5),
        message("e@four.test", mail_class=MailClass.PRIORITY, delay_s=60),
        message("f@five.test", site="", delay_s=60),
    )
    moment = now() - timedelta(seconds=wanted.older_than_s)
    total = through(Meant(wanted, moment), lambda m, p: verbs.count_step(m, p, sample=10))
    found = sorted(str(row["recipient"])[0].lower() for row in total.sample)
    assert found == expected.split()
    assert total.matched == len(found)


def test_messages_are_found_without_a_look_at_others(acceptor: Acceptor, verbs: QueueVerbs) -> None:
    ours = [message(*(f"{n}@m{each}.test" for n in range(5))) for each in range(45)]
    accept(acceptor, *ours, *(message(f"{n}@one.test") for n in range(50)))
    wanted = RowFilter(messages=tuple(each.message_id for each in ours[:42]))
    total = count(verbs, wanted)
    assert (total.examined, total.matched) == (210, 210)
    assert verbs.estimate(wanted) is None
    assert purge(verbs, wanted).changed == 210
    assert len(recipients()) == 65
    world.assert_counts_agree()


async def test_states_are_as_the_filter_says_and_leased_rows_are_told_apart(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, verbs: QueueVerbs
) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(9)))
    rows = await claim_all(ledger, incarnation, budget=6)
    await ledger.settle(waits(rows[:4], state=RowState.UNKNOWN))
    assert count(verbs, ALL).by_state == {"waiting": 3}
    both = RowFilter(everything=True, states=BOTH_STATES)
    assert count(verbs, both).by_state == {"waiting": 3, "unknown": 4}
    assert verbs.estimate(both) == 7
    assert verbs.with_workers(Meant(both, now())) == 2
    assert verbs.with_workers(Meant(RowFilter(domains=("two.test",)), now())) == 0
    assert purge(verbs, both, turns=2).by_state == {"waiting": 3, "unknown": 4}
    assert query("SELECT state, count(*) FROM ledger_row GROUP BY 1") == [(1, 2)]
    world.assert_counts_agree()


def test_mail_accepted_later_is_not_meant(acceptor: Acceptor, verbs: QueueVerbs) -> None:
    accept(acceptor, message("old@one.test"))
    moment = now()
    accept(acceptor, message("new@one.test"))
    total = through(
        Meant(ALL, moment, turns=2),
        lambda m, p: verbs.purge_step(m, p, job_id=1, rules=RULES, reply=REPLY),
    )
    assert total.changed == 1
    assert recipients() == ["new@one.test"]


# ── purge and expire ──────────────────────────────────────────────────────────────────────────


def test_a_purge_tells_who_and_why_and_keeps_a_record_of_each_row(
    acceptor: Acceptor, verbs: QueueVerbs
) -> None:
    accept(acceptor, *(message(f"{n}@d{n % 4}.test", sender_id=2) for n in range(10)))
    total = purge(verbs)
    assert (total.changed, total.by_isp) == (10, {3: 10})
    assert recipients() == []
    events = told()
    assert kinds() == {"purged": 10}
    assert {(e.claim_no, e.sender_id, e.node, e.policy_revision) for e in events} == {
        (0, 2, "n1", 3)
    }
    assert {e.reply for e in events} == {"554 5.7.0 purged by ann: a mistake"}
    assert verbs.recorded(9) == 10
    world.assert_counts_agree()


def test_an_expiry_tells_the_reason_and_is_for_good(acceptor: Acceptor, verbs: QueueVerbs) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(5)))
    reply = SmtpReply.local(554, "5.4.7", "expired by ann: too old")
    total = through(
        Meant(ALL, now()),
        lambda m, p: verbs.expire_step(m, p, rules=RULES, reply=reply),
    )
    assert total.changed == 5
    assert {(e.kind, e.bounce_class, e.reply) for e in told()} == {
        ("expired", "expired", "554 5.4.7 expired by ann: too old")
    }
    assert query("SELECT count(*) FROM queue_undo") == [(0,)]
    world.assert_counts_agree()


def test_rows_that_others_hold_are_passed_over_and_met_the_second_time(
    acceptor: Acceptor, verbs: QueueVerbs
) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(5)))
    held = world.Held("SELECT id FROM ledger_row ORDER BY id LIMIT 2 FOR UPDATE")
    meant = Meant(ALL, now(), turns=2)
    changed: Counter[int] = Counter()

    def step(meant: Meant, position: Position) -> VerbStep:
        if position.turn == 2 and not changed[2]:
            held.release()
        done = verbs.purge_step(meant, position, job_id=1, rules=RULES, reply=REPLY)
        changed[position.turn] += done.changed
        return done

    through(meant, step)
    assert changed == {1: 3, 2: 2}


# ── retry now ─────────────────────────────────────────────────────────────────────────────────


async def test_retry_makes_rows_due_and_lanes_with_them(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, dsn: str
) -> None:
    woken: list[bool] = []
    verbs = QueueVerbs(dsn, wake=lambda: woken.append(True), changed=3)
    accept(acceptor, *(message(f"{n}@d{n % 3}.test") for n in range(8)))
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(waits(rows, delay_s=600))
    assert await claim_all(ledger, incarnation) == []
    total = retry(verbs)
    assert total.changed == 8
    assert woken
    assert retry(verbs).changed == 0
    world.assert_counts_agree()
    again = await claim_all(ledger, incarnation)
    assert [row.attempt for row in again] == [1] * 8
    assert told() == []
    verbs.close()


async def test_retry_leaves_parked_and_scheduled_and_unknown_rows_unless_they_are_named(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, verbs: QueueVerbs
) -> None:
    accept(
        acceptor,
        message("lost@one.test"),
        message("later@one.test", delay_s=600),
        message("later@two.test", delay_s=600, site=""),
        message("parked@three.test", site=""),
    )
    query("UPDATE ledger_row SET due_at = expires_at, reason = 'held' WHERE recipient ~ '^parked'")
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(waits(rows, state=RowState.UNKNOWN, delay_s=600))
    assert retry(verbs).changed == 0
    assert retry(verbs, RowFilter(everything=True, states=(RowState.UNKNOWN,))).changed == 1
    assert retry(verbs, RowFilter(reasons=(WaitReason.SCHEDULED,))).changed == 2
    assert query(
        "SELECT recipient, state, reason, due_at <= now() FROM ledger_row ORDER BY recipient"
    ) == [
        ("later@one.test", 0, "new", True),
        ("later@two.test", 0, "unrouted", True),
        ("lost@one.test", 0, "retry", True),
        ("parked@three.test", 0, "held", False),
    ]
    world.assert_counts_agree()


# ── undo ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_undone_purge_leaves_the_queue_as_it_was_and_the_accounting_even(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, verbs: QueueVerbs
) -> None:
    accept(
        acceptor,
        *(message(f"{n}@d{n % 3}.test", sender_id=n % 2, custom='{"n":"1"}') for n in range(7)),
        message("u@four.test", site=""),
    )
    query("UPDATE ledger_row SET dsn = 'S Nf' WHERE recipient_no = 0")
    rows = await claim_all(ledger, incarnation, budget=1)
    await ledger.settle(waits(rows[:1], state=RowState.UNKNOWN, delay_s=900))
    await ledger.settle(waits(rows[1:], delay_s=900, reply="451 4.7.1 later"))
    columns = (
        "state, recipient_no, attempt, accepted_at, expires_at, message_id, content_segment,"
        " content_offset, content_length, content_crc, pinned_source_id, unrouted_domain,"
        " reverse_path, header_from, message_id_header, custom, reason, last_reply, dsn"
    )
    lane = "sender_id, account_id, campaign_id, mail_class, site, tls_need, isp_id"
    kept = f"""SELECT recipient, claim_no, due_at, {columns}, {lane}
        FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id ORDER BY recipient
    """  # noqa: S608 (constants of this test)
    before = query(kept)
    assert purge(verbs, RowFilter(everything=True, states=BOTH_STATES)).changed == 8
    query("DELETE FROM ledger_lane WHERE site = 'mx.d1.test'")  # as upkeep drops empty ones
    assert undo(verbs) == (8, 0)
    after = query(kept)
    assert [row[3:] for row in after] == [row[3:] for row in before]
    assert [row[1] for row in after] == [row[1] + 1 for row in before]
    moment = now()
    for old, new in zip(before, after, strict=True):
        assert new[2] == old[2] if old[2] > moment else old[2] <= new[2] <= moment
    assert kinds() == {"purged": 8, "accepted": 8}
    assert {(e.rule, e.reply) for e in told() if e.kind == "accepted"} == {
        ("undo", "250 2.0.0 restored by ann")
    }
    assert undo(verbs) == (0, 0)
    world.assert_counts_agree()


@pytest.mark.parametrize("is_undone_first", [True, False])
async def test_mail_a_worker_thought_dead_delivered_is_not_sent_again_after_an_undo(
    acceptor: Acceptor,
    ledger: PgLedger,
    incarnation: int,
    verbs: QueueVerbs,
    dsn: str,
    is_undone_first: bool,
) -> None:
    accept(acceptor, *(message(f"{n}@d{n}.test") for n in range(3)))
    rows = await claim_all(ledger, incarnation)
    chores = LedgerUpkeep(dsn)
    assert chores.reclaim(incarnation) == 3
    chores.close()
    assert purge(verbs).changed == 3
    if is_undone_first:
        assert undo(verbs) == (3, 0)
    await ledger.settle(waits(rows[1:]))  # only ends are true whatever became of the claim
    await ledger.settle(ends(rows[:1]))
    assert undo(verbs) == ((0, 0) if is_undone_first else (2, 0))
    assert query("SELECT id, claim_no, reason FROM ledger_row ORDER BY id") == [
        (row.id, row.claim_no + 1, "reclaimed") for row in rows[1:]
    ]
    world.assert_counts_agree()


async def test_every_round_of_purge_and_undo_has_events_of_its_own(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, verbs: QueueVerbs
) -> None:
    accept(acceptor, message("a@one.test"))
    for job in (1, 2):
        assert purge(verbs, job=job).changed == 1
        assert undo(verbs, job=job) == (1, 0)
    events = told()
    assert [(e.kind, e.claim_no) for e in events] == [
        ("purged", 0),
        ("accepted", 1),
        ("purged", 1),
        ("accepted", 2),
    ]
    assert len({e.event_id for e in events}) == 4
    (row,) = await claim_all(ledger, incarnation)
    assert row.claim_no == 3
    assert await ledger.settle(ends([row])) == 1


def test_what_outlived_its_lifetime_stays_purged(acceptor: Acceptor, verbs: QueueVerbs) -> None:
    accept(acceptor, message("a@one.test"), message("late@one.test", lifetime_s=0))
    assert purge(verbs).changed == 2
    assert undo(verbs) == (1, 1)
    assert recipients() == ["a@one.test"]
    assert kinds() == {"purged": 2, "accepted": 1}
    assert verbs.recorded(9) == 0


async def test_a_parked_row_comes_back_to_routing(
    acceptor: Acceptor, ledger: PgLedger, verbs: QueueVerbs
) -> None:
    accept(acceptor, message("a@one.test", site=""))
    query("UPDATE ledger_row SET due_at = expires_at, reason = 'held'")
    assert purge(verbs).changed == 1
    assert undo(verbs) == (1, 0)
    assert query("SELECT reason, due_at <= now(), unrouted_domain FROM ledger_row") == [
        ("unrouted", True, "one.test")
    ]
    assert await ledger.apply_routes([DomainRoute("one.test", "mx.one.test", 3, 60.0)]) == 1
    world.assert_counts_agree()


def test_an_undo_of_one_job_restores_nothing_of_another(
    acceptor: Acceptor, verbs: QueueVerbs
) -> None:
    accept(acceptor, message("a@one.test"), message("b@two.test"))
    purge(verbs, RowFilter(domains=("one.test",)), job=1)
    purge(verbs, RowFilter(domains=("two.test",)), job=2)
    assert undo(verbs, job=2) == (1, 0)
    assert recipients() == ["b@two.test"]
    assert verbs.recorded(1) == 1

"""What the panel and the API are shown of the queue."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from mailcore.outcome import MailClass, RowState, WaitReason
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.figures import LedgerFigures, OldestAges, QueueCounts
from tests.io.ledger.world import accept, claim_all, message, query, waits


@pytest.fixture
def figures(dsn: str) -> Iterator[LedgerFigures]:
    side = LedgerFigures(dsn)
    yield side
    side.close()


def test_an_empty_queue_has_figures_too(figures: LedgerFigures) -> None:
    assert figures.counts() == QueueCounts(0, 0, 0, 0, 0)
    assert figures.totals() == []
    assert figures.oldest_ages() == OldestAges(0, 0, 0)
    assert figures.rows_of_message(UUID(int=1)) == []


async def test_figures_add_up_by_sender_account_campaign_class_and_isp(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, figures: LedgerFigures
) -> None:
    spring = acceptor.campaign_ids(1, ["spring"])["spring"]
    accept(
        acceptor,
        message("a@one.test", campaign_id=spring),
        message("a@two.test", campaign_id=spring),
        message("b@two.test", sender_id=2, account_id=2),
        message("c@two.test", site="", sender_id=2, account_id=2),
    )
    rows = await claim_all(ledger, incarnation, budget=1)
    await ledger.settle(waits(rows[:1], state=RowState.UNKNOWN))
    counts = figures.counts()
    assert counts == QueueCounts(waiting=1, leased=2, unknown=1, unrouted=1, lanes=4)
    assert counts.queued == 4
    assert [
        (t.sender_id, t.account_id, t.campaign, t.mail_class, t.isp_id, t.waiting, t.leased)
        for t in figures.totals()
    ] == [(1, 1, "spring", MailClass.MAIN, 3, 0, 1), (2, 2, "", MailClass.MAIN, 3, 1, 1)]
    assert [t.unknown for t in figures.totals(account_id=1)] == [1]
    assert figures.totals(sender_id=9) == []
    assert figures.totals(account_id=1)[0].next_due_at is None
    assert sorted(figures.recipients_of_campaign("spring")) == ["a@one.test", "a@two.test"]
    assert figures.recipients_of_campaign("autumn") == []
    query("UPDATE ledger_row SET due_at = due_at - interval '1 h' WHERE state = 0")
    ages = figures.oldest_ages()
    assert 3600 <= ages.due_s == ages.unrouted_s < 3700
    assert 0 <= ages.heartbeat_s < 60


async def test_a_message_is_told_recipient_by_recipient(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, figures: LedgerFigures
) -> None:
    sent = message("a@one.test", "b@one.test", "c@new.test", account_id=4)
    accept(acceptor, sent)
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(waits(rows[1:2], delay_s=60, reply="451 later"))
    first, second, third = figures.rows_of_message(sent.message_id)
    assert (first.recipient, first.state, first.account_id) == ("a@one.test", RowState.LEASED, 4)
    assert (second.state, second.reason, second.last_reply, second.attempt, second.claim_no) == (
        RowState.WAITING,
        WaitReason.RETRY,
        "451 later",
        1,
        1,
    )
    assert second.due_at > second.accepted_at
    assert (third.recipient_no, third.site, third.isp_id) == (2, "mx.new.test", 3)

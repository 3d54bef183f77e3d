"""Figures of the queue by what lanes have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailcore.outcome import MailClass, RowState
from mailcore.rowfilter import RowFilter
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.groups import GroupBy, QueueGroups
from tests.io.ledger.world import accept, claim_all, message, waits


@pytest.fixture
def groups(dsn: str) -> Iterator[QueueGroups]:
    side = QueueGroups(dsn)
    yield side
    side.close()


def test_an_empty_queue_has_no_groups(groups: QueueGroups) -> None:
    assert groups.totals([]) == []
    assert groups.totals(list(GroupBy)) == []


async def test_groups_add_up_and_say_what_lanes_know_of_when(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, groups: QueueGroups
) -> None:
    accept(
        acceptor,
        message("a@one.test", "b@one.test"),
        message("a@two.test", sender_id=2, delay_s=3600),
        message("a@two.test", sender_id=2, mail_class=MailClass.PRIORITY, delay_s=3600),
        message("c@two.test", sender_id=2, account_id=2, site=""),
    )
    rows = await claim_all(ledger, incarnation, budget=1)
    await ledger.settle(waits(rows, state=RowState.UNKNOWN))
    (whole,) = groups.totals([])
    assert (whole.waiting, whole.leased, whole.unknown, whole.lanes) == (4, 0, 1, 4)
    assert (whole.unrouted, whole.in_due_lanes, whole.in_later_lanes, whole.queued) == (1, 2, 2, 5)
    by_sender = groups.totals([GroupBy.SENDER])
    assert [(g.sender_id, g.account_id, g.waiting) for g in by_sender] == [
        (1, None, 1),
        (2, None, 3),
    ]
    by_two = groups.totals([GroupBy.MAIL_CLASS, GroupBy.ACCOUNT])
    assert [(g.account_id, g.mail_class, g.waiting) for g in by_two] == [
        (1, MailClass.PRIORITY, 1),
        (1, MailClass.MAIN, 2),
        (2, MailClass.MAIN, 1),
    ]
    (later,) = groups.totals([], RowFilter(senders=(2,), accounts=(1,)))
    assert (later.waiting, later.in_due_lanes) == (2, 0)
    assert later.next_due_at is not None
    assert groups.totals([], RowFilter(sites=("mx.nobody.test",))) == []


def test_what_lanes_do_not_know_is_refused(groups: QueueGroups) -> None:
    with pytest.raises(ValueError, match="not of lanes"):
        groups.totals([], RowFilter(domains=("one.test",)))

"""Two versions on one ledger: the older serves what it knows, and leaves the rest to the newer."""

from __future__ import annotations

import pytest

from mailcore.outcome import MailClass, TlsNeed
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from tests.io.ledger.world import accept, claim_all, ends, message, query

LATER = 99


@pytest.mark.parametrize("column", ["mail_class", "tls_need"])
async def test_a_lane_with_a_word_of_a_newer_version_is_left_to_it(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, column: str
) -> None:
    accept(acceptor, message("later@one.test"), message("now@two.test"))
    query(f"UPDATE ledger_lane SET {column} = %s WHERE site = 'mx.one.test'", LATER)  # noqa: S608
    assert [lane.site for lane in await ledger.due_lanes(limit=10)] == ["mx.two.test"]
    both = ["mx.one.test", "mx.two.test"]
    known = await ledger.lanes_of_sites(both, mail_class=MailClass.MAIN, sender_ids=[1])
    assert [lane.site for lane in known] == ["mx.two.test"]
    rows = await claim_all(ledger, incarnation)
    assert [str(row.recipient) for row in rows] == ["now@two.test"]
    await ledger.settle(ends(rows))
    assert query("SELECT recipient, state FROM ledger_row") == [("later@one.test", 0)]
    query(
        "UPDATE ledger_lane SET mail_class = %s, tls_need = %s",
        MailClass.MAIN.value,
        TlsNeed.POLICY.value,
    )
    assert len(await claim_all(ledger, incarnation)) == 1


async def test_a_reason_of_a_newer_version_keeps_no_row_from_being_sent(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("ann@one.test"))
    query("UPDATE ledger_row SET reason = 'later'")
    (row,) = await claim_all(ledger, incarnation)
    await ledger.settle(ends([row]))
    assert query("SELECT count(*) FROM ledger_row") == [(0,)]

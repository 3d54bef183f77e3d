"""Unrouted rows find their lanes, strays find back."""

from __future__ import annotations

from mailcore.outcome import WaitReason
from mailcore.ports import DomainRoute
from mailcore.reply import SmtpReply
from mailio.ledger.accept import Acceptor, KnownRoute
from mailio.ledger.delivery import PgLedger
from tests.io.ledger import world
from tests.io.ledger.world import accept, claim_all, message, query

SERVFAIL = SmtpReply.local(451, "4.4.3", "DNS gave no answer for x.test")


async def test_domains_wait_oldest_first_and_only_when_due(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@second.test", site=""))
    accept(acceptor, message("a@first.test", "b@first.test", site=""))
    accept(acceptor, message("a@later.test", site="", delay_s=60))
    query(
        "UPDATE ledger_row SET due_at = due_at - interval '9 s' WHERE recipient LIKE '%%@first%%'"
    )
    assert await ledger.unrouted_domains(limit=9) == ["first.test", "second.test"]
    assert await ledger.unrouted_domains(limit=1) == ["first.test"]
    assert await ledger.due_lanes(limit=9) == []
    assert await claim_all(ledger, incarnation) == []
    rows = await ledger.unrouted_rows("first.test", limit=9)
    assert [str(row.recipient) for row in rows] == ["a@first.test", "b@first.test"]
    assert len(await ledger.unrouted_rows("first.test", limit=1)) == 1


async def test_routed_rows_move_to_lanes_alike_in_all_but_the_site(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(
        acceptor,
        message("a@one.test", site=""),
        message("b@two.test", site="", sender_id=2),
        message("c@one.test", site="", delay_s=60),
        message("d@other.test", site=""),
        message("there@one.test", site="big.test"),
    )
    routes = [
        DomainRoute("one.test", "big.test", 5, 60),
        DomainRoute("two.test", "big.test", 5, 60),
    ]
    assert await ledger.apply_routes(routes) == 3
    assert query(
        "SELECT r.recipient, l.site, l.sender_id, l.isp_id, r.reason, r.unrouted_domain"
        " FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id ORDER BY r.id"
    ) == [
        ("a@one.test", "big.test", 1, 5, "new", None),
        ("b@two.test", "big.test", 2, 5, "new", None),
        ("c@one.test", "big.test", 1, 5, "scheduled", None),
        ("d@other.test", "", 1, 3, "unrouted", "other.test"),
        ("there@one.test", "big.test", 1, 5, "new", None),
    ]
    world.assert_counts_agree()
    assert len(await claim_all(ledger, incarnation)) == 3
    assert acceptor.known_routes(["one.test"]) == {"one.test": KnownRoute("big.test", 5)}
    assert await ledger.apply_routes(routes) == 0
    assert await ledger.apply_routes([]) == 0


async def test_many_rows_of_many_domains_move_in_pieces(
    acceptor: Acceptor, ledger: PgLedger
) -> None:
    people = [f"u{n}@d{n % 300}.test" for n in range(5000)]
    accept(acceptor, *(message(person, site="") for person in people))
    routes = [DomainRoute(f"d{n}.test", f"mx{n % 100}.test", 0, 60) for n in range(300)]
    assert await ledger.apply_routes(routes) == 5000
    assert query("SELECT count(*), sum(waiting) FROM ledger_lane WHERE site <> ''") == [(100, 5000)]
    world.assert_counts_agree()


async def test_dns_failure_postpones_what_is_due_with_its_reason(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@x.test", site=""), message("b@x.test", site="", delay_s=60))
    assert await ledger.postpone_domains(["x.test"], delay_s=30, reply=SERVFAIL) == 1
    assert await ledger.postpone_domains([], delay_s=30, reply=SERVFAIL) == 0
    assert await ledger.unrouted_domains(limit=9) == []
    assert query("SELECT reason, last_reply, attempt FROM ledger_row ORDER BY id") == [
        ("dns", str(SERVFAIL), 0),
        ("unrouted", "", 0),
    ]
    world.assert_counts_agree()
    # Routed at last, it need not wait for the rest of the delay.
    assert await ledger.apply_routes([DomainRoute("x.test", "mx.test", 0, 60)]) == 2
    (row,) = await claim_all(ledger, incarnation)
    assert str(row.recipient) == "a@x.test"
    world.assert_counts_agree()


async def test_a_route_to_no_site_moves_nothing(acceptor: Acceptor, ledger: PgLedger) -> None:
    accept(acceptor, message("a@x.test", site=""))
    assert await ledger.apply_routes([DomainRoute("x.test", "", 0, 60)]) == 0
    assert await ledger.unrouted_domains(limit=9) == ["x.test"]


async def test_strays_wait_in_the_lanes_of_their_new_site(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@x.test"), message("b@x.test"), message("c@y.test", site="new.test"))
    rows = await claim_all(ledger, incarnation)
    query("UPDATE ledger_row SET claim_no = 9 WHERE recipient = 'b@x.test'")  # no longer ours
    assert await ledger.return_strays(rows, DomainRoute("x.test", "new.test", 8, 60)) == 1
    assert query(
        "SELECT r.recipient, l.site, r.state, r.reason, r.attempt FROM ledger_row r"
        " JOIN ledger_lane l ON l.id = r.lane_id ORDER BY r.id"
    ) == [
        ("a@x.test", "new.test", 0, WaitReason.RETURNED.value, 0),
        ("b@x.test", "mx.x.test", 1, "new", 0),
        ("c@y.test", "new.test", 1, "new", 0),
    ]
    world.assert_counts_agree()
    (again,) = await claim_all(ledger, incarnation)
    assert (again.site, again.isp_id, again.claim_no) == ("new.test", 8, 2)

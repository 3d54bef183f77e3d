"""Ringing and routing: bells for what is due, once; lanes for what DNS knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailcore.bells import Path
from mailcore.outcome import MailClass, WaitReason
from mailcore.policy.model import Strategy
from mailcore.ports import DnsStatus, MxAnswer, MxHost, StoreUnavailable
from tests.support.builders import NODE, SITE, policy, row
from tests.support.fakes import world
from workers.engines.ring import Ringer
from workers.engines.route import route_domains
from workers.engines.settle import Rules


async def test_due_lanes_are_rung_for_once_until_the_bell_is_answered() -> None:
    it = world(policy(sources=2))
    it.ledger.add(row(1), row(2))
    ringer = Ringer(it.ports)
    assert await ringer.ring_once() == 1
    assert await ringer.ring_once() == 0
    (bell,) = it.bells.drains
    assert bell.node == NODE
    assert bell.paths == (Path(1, SITE), Path(2, SITE))
    await it.shaper.drop_bells(bell.paths)
    assert await ringer.ring_once() == 1


async def test_priority_mail_rings_on_a_bell_of_its_own() -> None:
    it = world()
    it.ledger.add(row(1), row(2, mail_class=MailClass.PRIORITY))
    await Ringer(it.ports).ring_once()
    assert [bell.mail_class for bell in it.bells.drains] == [MailClass.PRIORITY, MailClass.MAIN]


async def test_deferred_bulk_rings_on_the_retry_queue() -> None:
    it = world()
    it.ledger.add(row(1, attempt=1))
    await Ringer(it.ports).ring_once()
    assert [bell.is_retry for bell in it.bells.drains] == [True]


async def test_a_resting_path_is_passed_over() -> None:
    it = world()
    it.ledger.add(row(1))
    await it.shaper.cool(Path(1, SITE), seconds=30, reason="421 busy")
    assert await Ringer(it.ports).ring_once() == 0
    assert it.bells.drains == []


async def test_a_bell_the_broker_did_not_take_is_uncounted() -> None:
    it = world()
    it.ledger.add(row(1))
    it.bells.is_away = True
    with pytest.raises(StoreUnavailable):
        await Ringer(it.ports).ring_once()
    assert it.shaper.bells[Path(1, SITE), MailClass.MAIN] == 0


async def test_rows_of_a_sender_without_a_policy_are_left_alone() -> None:
    it = world()
    it.ledger.add(replace(row(1), sender_id=99))
    assert await Ringer(it.ports).ring_once() == 0


async def test_unrouted_rows_move_to_the_site_of_their_mx_set() -> None:
    it = world(policy(strategy=Strategy(1, "u", 0, 0, 0, 0)))
    it.ledger.add(replace(row(1), site="", isp_id=0))
    assert await route_domains(it.ports, Rules(it.policy)) == 1
    moved = it.ledger.rows[1]
    assert (moved.site, moved.isp_id) == (SITE, 1)


async def test_a_domain_dns_cannot_tell_about_waits_with_that_reason() -> None:
    it = world()
    it.ledger.add(replace(row(1), site=""))
    it.resolver.mxs["peer.test"] = MxAnswer(DnsStatus.TEMPORARY, detail="SERVFAIL")
    await route_domains(it.ports, Rules(it.policy), retry_s=9.0)
    assert it.ledger.reasons[1] is WaitReason.DNS
    assert it.ledger.due_in_s[1] == 9.0
    assert it.ledger.kinds() == []


@pytest.mark.parametrize(
    ("status", "enhanced"),
    [
        (DnsStatus.NULL_MX, "5.1.10"),
        (DnsStatus.NO_DOMAIN, "5.1.2"),
        (DnsStatus.NO_DATA, "5.1.2"),
    ],
)
async def test_a_domain_that_takes_no_mail_ends_its_rows(status: DnsStatus, enhanced: str) -> None:
    it = world()
    it.ledger.add(replace(row(1), site=""))
    it.resolver.mxs["peer.test"] = MxAnswer(status)
    await route_domains(it.ports, Rules(it.policy))
    assert it.ledger.rows == {}
    (event,) = it.ledger.events
    assert (event.kind, event.enhanced, event.stage) == ("bounced", enhanced, "dns")


async def test_domains_of_one_mx_set_share_a_site() -> None:
    it = world()
    hosts = (MxHost(10, "mx1.big.test"), MxHost(20, "mx2.big.test"))
    for number, domain in enumerate(("a.test", "b.test"), 1):
        it.ledger.add(replace(row(number, recipient=f"r@{domain}"), site=""))
        it.resolver.mxs[domain] = MxAnswer(DnsStatus.OK, hosts)
    await route_domains(it.ports, Rules(it.policy))
    assert it.ledger.rows[1].site == it.ledger.rows[2].site == "mx1.big.test,mx2.big.test"


async def test_lanes_nobody_can_serve_do_not_hide_those_behind_them() -> None:
    it = world()
    # Due longest are lanes of a sender that was removed; nothing ever drains them.
    it.ledger.add(*(replace(row(n, account=n), sender_id=99) for n in range(1, 7)))
    it.ledger.add(row(7, account=7))
    ringer = Ringer(it.ports, lanes_a_turn=3)
    for _ in range(3):
        await ringer.ring_once()
    assert [bell.paths for bell in it.bells.drains] == [(Path(1, SITE),)]

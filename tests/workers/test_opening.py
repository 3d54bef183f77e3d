"""Opening sessions: which address is tried first, which never, and what is remembered of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailcore.bells import DrainBell, Path
from mailcore.envelope import QueuedRow
from mailcore.outcome import MailClass, RowState, Scope
from mailcore.policy.model import Isp, Source, Strategy
from mailcore.policy.words import TlsMode
from mailcore.ports import (
    AddressAnswer,
    ConnectFailed,
    DnsStatus,
    Endpoint,
    MxAnswer,
    MxHost,
    TimedOut,
    TlsFailed,
    TransportError,
)
from mailcore.reply import SmtpReply
from tests.support.builders import DOMAIN, NODE, policy, row
from tests.support.fakes import ScriptedConnection, World, world
from tests.workers.test_drain import drained
from workers.engines.route import route_domains
from workers.engines.settle import Rules

SOURCE = "127.0.100.1"
REFUSED = SmtpReply.local(451, "4.4.1", "connection refused")


def meeting(hosts: dict[str, tuple[int, tuple[str, ...]]], it: World | None = None) -> World:
    """A row for a domain with these exchangers: name to preference and addresses."""
    it = it or world()
    mxs = tuple(MxHost(preference, name) for name, (preference, _) in hosts.items())
    it.resolver.mxs[DOMAIN] = MxAnswer(DnsStatus.OK, mxs)
    for name, (_, addresses) in hosts.items():
        status = DnsStatus.OK if addresses else DnsStatus.NO_DOMAIN
        it.resolver.hosts[name] = AddressAnswer(status, addresses)
    it.ledger.add(placed(it, 1))
    return it


def placed(it: World, number: int, recipient: str = "") -> QueuedRow:
    """Return a row that lies where its domain's mail goes now."""
    each = row(number, recipient=recipient)
    answer = it.resolver.mxs.get(each.recipient.domain)
    hosts = answer.hosts if answer is not None else (MxHost(10, f"mx.{each.recipient.domain}"),)
    site = ",".join(sorted({host.name.lower() for host in hosts}))
    return replace(each, site=site, lane_id=each.lane_id + (number if recipient else 0))


async def send(it: World) -> None:
    """Ring for all that waits, and wait until it is quiet."""
    sites = sorted({each.site for each in it.ledger.rows.values()})
    paths = tuple(Path(1, site) for site in sites)
    await drained(it, DrainBell(NODE, MailClass.MAIN, paths))


def tried(it: World) -> list[str]:
    """Return the addresses that were tried, in order."""
    return [endpoint.address for endpoint in it.receiver.endpoints]


def failed(stage: str = "connect", kind: type[TransportError] = ConnectFailed) -> TransportError:
    return kind(REFUSED, scope=Scope.HOST, stage=stage)


def deferral(it: World) -> str:
    """Return why the row waits."""
    (event,) = it.ledger.events
    assert event.kind == "deferred"
    return event.reply


THREE = {
    "mx1.test": (10, ("127.0.0.1", "127.0.0.2")),
    "mx2.test": (20, ("127.0.0.3",)),
}


# ── the order, and the dead ───────────────────────────────────────────────────────────────────


async def test_every_address_of_every_host_is_tried_by_preference() -> None:
    it = meeting(THREE)
    it.receiver.refuse = [failed(), failed()]
    await send(it)
    assert tried(it) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert it.ledger.kinds() == ["delivered"]


async def test_a_host_that_could_not_be_reached_is_tried_last_by_all_from_then_on() -> None:
    it = meeting(THREE)
    it.receiver.refuse = [failed(), failed(kind=TimedOut, stage="banner")]
    await send(it)
    other = replace(world(), hosts=it.hosts)
    other = meeting(THREE, replace(other, ports=replace(other.ports, hosts=it.hosts)))
    await send(other)
    assert tried(other) == ["127.0.0.3"]
    assert other.ledger.kinds() == ["delivered"]


async def test_the_dead_are_tried_when_there_is_nobody_else_and_fail_for_longer() -> None:
    it = meeting(THREE)
    it.hosts.dead = {(SOURCE, address) for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3")}
    it.hosts.failures = dict.fromkeys(it.hosts.dead, 2)
    it.receiver.refuse = [failed(), failed()]
    await send(it)
    assert tried(it) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert it.ledger.kinds() == ["delivered"]
    assert it.hosts.failures[SOURCE, "127.0.0.1"] == 3
    assert (SOURCE, "127.0.0.3") not in it.hosts.dead


@pytest.mark.parametrize(
    "error",
    [
        failed("banner"),
        failed("starttls", TlsFailed),
        ConnectFailed(REFUSED, scope=Scope.SOURCE, stage="connect"),
    ],
)
async def test_a_host_that_spoke_or_a_fault_of_ours_is_no_dead_host(error: TransportError) -> None:
    it = meeting(THREE, world(policy(strategy=Strategy(1, "u", 0, 0, 0, 0.0, tls=TlsMode.NONE))))
    it.receiver.refuse = [error]
    await send(it)
    assert it.hosts.dead == set()


async def test_a_session_costs_one_look_however_many_messages_it_carries() -> None:
    it = meeting(THREE, world(policy(strategy=Strategy(1, "one", 1, 0, 0, 0.0))))
    it.ledger.add(*(placed(it, number) for number in range(2, 40)))
    await send(it)
    assert len(it.receiver.delivered) == 39
    assert it.hosts.looks == len(it.receiver.endpoints)


async def test_broken_tls_is_remembered_together() -> None:
    it = meeting({"mx1.test": (10, ("127.0.0.1",))})
    it.receiver.refuse = [failed("starttls", TlsFailed)]
    await send(it)
    assert [endpoint.tls for endpoint in it.receiver.endpoints] == [
        TlsMode.OPPORTUNISTIC,
        TlsMode.NONE,
    ]
    assert it.hosts.broken_tls == {"mx1.test"}
    it.ledger.add(placed(it, 2))
    await send(it)
    assert it.receiver.endpoints[-1].tls is TlsMode.NONE


async def test_a_fault_nobody_foresaw_costs_each_job_one_attempt_and_holds_up_nobody() -> None:
    it = meeting({"mx1.test": (10, ("127.0.0.1",))})
    it.ledger.add(placed(it, 2))
    faults: list[Exception] = [UnicodeError("label too long"), KeyError("whatever")]
    real = it.receiver.connect

    async def connect(endpoint: Endpoint) -> ScriptedConnection:
        if faults:
            raise faults.pop()
        return await real(endpoint)

    it.receiver.connect = connect  # type: ignore[method-assign]
    it.ledger.add(placed(it, 3))
    await send(it)
    assert sorted(it.ledger.kinds()) == ["deferred", "deferred", "delivered"]
    told = {event.reply for event in it.ledger.events if event.kind == "deferred"}
    assert told == {"451 4.3.0 an error of ours ended the attempt; it is in the log"}
    assert it.shaper.cooled == []


# ── ourselves ─────────────────────────────────────────────────────────────────────────────────


def ours(it: World, *, names: set[str] = frozenset(), listen: str = "") -> World:  # type: ignore[assignment]
    """Give the node an SMTP server of its own."""
    listeners = frozenset({(listen, it.ports.smtp_port)}) if listen else frozenset()
    ports = replace(it.ports, own_names=frozenset(names), own_listeners=listeners)
    return replace(it, ports=ports)


async def test_mail_that_would_come_back_to_us_bounces_and_the_path_goes_on() -> None:
    greeted: dict[str, tuple[int, tuple[str, ...]]] = {
        "out1.sender.test": (10, ("192.0.2.9",)),
        "mx2.test": (10, ("127.0.0.3",)),
    }
    for it in (
        ours(meeting(greeted), listen="0.0.0.0"),
        ours(meeting({"Mx.Us.Test": (10, ("127.0.0.9",))}), names={"mx.us.test"}),
        ours(meeting(THREE), listen="127.0.0.2"),
        ours(meeting({"mx1.test": (10, (SOURCE,))}), listen="0.0.0.0"),
        ours(meeting({"mx1.test": (10, ("127.0.0.1",))}), listen="0.0.0.0"),
    ):
        it.resolver.hosts["mx.other.test"] = AddressAnswer(DnsStatus.OK, ("192.0.2.1",))
        it.ledger.add(placed(it, 2, recipient="x@other.test"))
        await send(it)
        events = {event.recipient_domain: event for event in it.ledger.events}
        assert events[DOMAIN].kind == "bounced"
        assert events[DOMAIN].reply == f"554 5.4.6 mail for {DOMAIN} loops back to us"
        assert events[DOMAIN].bounce_type == "bounce"
        assert events["other.test"].kind == "delivered"
        assert tried(it) == ["192.0.2.1"]


async def test_who_only_bears_the_name_we_greet_with_is_sent_to() -> None:
    it = meeting({"out1.sender.test": (10, ("192.0.2.9",))})
    other = frozenset({("0.0.0.0", it.ports.smtp_port + 1)})
    it = replace(it, ports=replace(it.ports, own_listeners=other))
    await send(it)
    assert it.ledger.kinds() == ["delivered"]
    assert tried(it) == ["192.0.2.9"]


async def test_hosts_better_than_ourselves_are_gone_to_and_worse_ones_never() -> None:
    it = meeting({
        "mx1.test": (10, ("127.0.0.1",)),
        "out1.sender.test": (20, ("127.0.0.9",)),
        "mx3.test": (30, ("127.0.0.3",)),
    })  # fmt: skip
    it = ours(it, listen="192.0.2.25")
    it.receiver.refuse = [failed()]
    await send(it)
    assert tried(it) == ["127.0.0.1"]
    assert it.ledger.kinds() == ["deferred"]


async def test_an_address_of_ours_on_another_port_is_somebody_else_s() -> None:
    it = meeting({"mx1.test": (10, (SOURCE,))})
    other = frozenset({(SOURCE, it.ports.smtp_port + 1), ("0.0.0.0", 587)})
    it = replace(it, ports=replace(it.ports, own_listeners=other))
    await send(it)
    assert it.ledger.kinds() == ["delivered"]


async def test_a_domain_whose_best_host_we_are_is_not_routed_at_all() -> None:
    it = ours(world(), listen="192.0.2.25")
    for name, preference in (("loop", 10), ("backup", 20)):
        hosts = (MxHost(preference, "out1.sender.test"), MxHost(15, "mx.other.test"))
        it.resolver.mxs[f"{name}.test"] = MxAnswer(DnsStatus.OK, hosts)
    it.ledger.add(
        replace(row(1, recipient="a@loop.test"), site=""),
        replace(row(2, recipient="a@backup.test"), site=""),
    )
    await route_domains(it.ports, Rules(it.policy))
    (event,) = it.ledger.events
    assert (event.kind, event.enhanced, event.recipient_domain) == ("bounced", "5.4.6", "loop.test")
    assert it.ledger.rows[2].site == "mx.other.test,out1.sender.test"


# ── the one site of an ISP ────────────────────────────────────────────────────────────────────

ISP_SITE = "isp:big.test"
BIG = Isp(1, "Big", (), ("big.test",), is_one_site=True)


def at_the_isp(own: str, *addresses: str, others: int = 0) -> World:
    """A domain with a host of its own under an ISP's suffix, before others with the usual one."""
    it = world(replace(policy(strategy=Strategy(1, "few", 1, 0, 0, 0.0)), isps={1: BIG}))
    status = DnsStatus.OK if addresses else DnsStatus.NO_DOMAIN
    for domain, host in (("own.test", own), (DOMAIN, "mx.big.test")):
        it.resolver.mxs[domain] = MxAnswer(DnsStatus.OK, (MxHost(10, host),))
    it.resolver.hosts[own] = AddressAnswer(status, addresses)
    it.resolver.hosts["mx.big.test"] = AddressAnswer(DnsStatus.OK, ("127.0.0.1",))
    it.ledger.add(
        *(replace(row(n, recipient="r@own.test"), site=ISP_SITE) for n in (1, 2)),
        *(replace(row(10 + n), site=ISP_SITE) for n in range(others)),
    )
    return it


async def test_a_host_that_is_not_there_keeps_nobody_else_of_the_isp_waiting() -> None:
    it = at_the_isp("nope.big.test", others=5)
    await send(it)
    assert it.ledger.kinds().count("delivered") == 5
    assert sorted(it.ledger.rows) == [1, 2]
    assert it.shaper.cooled == []


async def test_a_host_of_one_domain_that_is_silent_keeps_nobody_else_of_the_isp_waiting() -> None:
    it = at_the_isp("www.big.test", "127.0.0.9", others=5)
    it.receiver.refuse = [failed("connect", TimedOut)]
    await send(it)
    assert it.ledger.kinds().count("delivered") == 5
    assert sorted(it.ledger.rows) == [1, 2]
    assert it.shaper.cooled == []
    # The others of the domain do not wait for the same silence.
    assert tried(it).count("127.0.0.9") == 1


@pytest.mark.parametrize(
    ("own", "stage", "others"),
    [
        ("mx.big.test", "connect", 5),
        ("www.big.test", "banner", 5),
        ("www.big.test", "connect", 0),
    ],
)
async def test_a_host_that_speaks_for_the_isp_lets_its_path_rest(
    own: str, stage: str, others: int
) -> None:
    it = at_the_isp(own, "127.0.0.1", others=others)
    it.receiver.refuse = [failed(stage)]
    await send(it)
    assert it.ledger.kinds() == ["deferred"]
    assert [path for path, _, _ in it.shaper.cooled] == [Path(1, ISP_SITE)]


# ── families, and names without addresses ─────────────────────────────────────────────────────


def from_address(address: str) -> World:
    """A node whose one source has this address."""
    base = policy()
    return world(replace(base, sources={1: Source(1, NODE, address, "out1.sender.test")}))


BOTH = {"mx1.test": (10, ("::1", "127.0.0.1")), "mx2.test": (20, ("::2",))}


@pytest.mark.parametrize(
    ("source", "addresses"), [(SOURCE, ["127.0.0.1"]), ("::9", ["::1", "::2"])]
)
async def test_a_source_tries_addresses_of_its_own_family_alone(
    source: str, addresses: list[str]
) -> None:
    it = meeting(BOTH, from_address(source))
    it.receiver.refuse = [failed()] * len(addresses)
    await send(it)
    assert tried(it) == addresses


async def test_a_site_of_the_other_family_alone_defers_and_says_so() -> None:
    it = meeting({"mx2.test": (10, ("::2",))})
    await send(it)
    assert tried(it) == []
    assert deferral(it) == (
        f"451 4.4.4 {DOMAIN} has IPv6 hosts alone, and the source {SOURCE} is IPv4"
    )
    assert it.ledger.rows[1].state is RowState.WAITING


async def test_hosts_without_addresses_defer_with_what_dns_said() -> None:
    it = meeting({"mx1.test": (10, ())})
    await send(it)
    assert deferral(it) == f"451 4.4.4 no MX host of {DOMAIN} has an address"
    it = meeting({"mx1.test": (10, ()), "mx2.test": (20, ())})
    it.resolver.hosts["mx2.test"] = AddressAnswer(DnsStatus.TEMPORARY, detail="SERVFAIL for mx2")
    await send(it)
    assert deferral(it) == "451 4.4.3 SERVFAIL for mx2"

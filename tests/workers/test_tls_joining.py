"""What may join a session that is open: never mail whose demand is not known, or not met here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from mailcore.bells import DrainBell, Path
from mailcore.outcome import MailClass, TlsNeed, TlsResult
from mailcore.policy.model import DomainTls
from mailcore.policy.words import DomainTlsLevel, TlsMode
from mailcore.ports import (
    AddressAnswer,
    DnsStatus,
    Endpoint,
    MxAnswer,
    MxHost,
    StsAnswer,
    TlsaAnswer,
    WireMessage,
)
from mailcore.reply import SmtpReply
from mailcore.security import CLEAR, Proven
from tests.support.builders import NODE, OK, SITE, row
from tests.support.fake_sources import RunningClock
from tests.support.fakes import ScriptedConnection, World
from tests.workers.test_drain import BELL, drained, running
from tests.workers.test_tls_sessions import (
    DANE,
    EE,
    PLAIN,
    STS,
    Policies,
    broken,
    failed,
    honest,
    impostor,
    limited,
    one_site,
    sts,
)
from workers.engines.tls_memory import BROKEN_S, UNMET_S, TlsMemory


def without_tls(it: World) -> None:
    """Somebody on the way takes STARTTLS out of what the server says."""

    def shown(endpoint: Endpoint) -> Proven:
        if endpoint.tls is TlsMode.REQUIRED:
            raise failed(TlsResult.NOT_OFFERED)
        return CLEAR

    it.receiver.tls = shown


def taken(it: World) -> list[str]:
    """Return the recipients whose mail was taken."""
    return sorted(path for message in it.receiver.delivered for path in message.forward_paths)


TWO_HOSTS = "new.test,old.test"


def two_hosts() -> World:
    """Domains with two hosts, of which the better one knows nothing of REQUIRETLS."""
    it = one_site(limited(1))
    hosts = (MxHost(10, "old.test"), MxHost(20, "new.test"))
    for number, host in enumerate(hosts, 1):
        name, address = host.name, f"127.0.0.{number}"
        found = AddressAnswer(DnsStatus.OK, (address,), is_secure=True, canonical=name)
        it.resolver.hosts[name] = found
        it.resolver.tlsas[name] = TlsaAnswer(DnsStatus.OK, (EE,), is_secure=True)
    it.resolver.mxs[DANE] = MxAnswer(DnsStatus.OK, hosts, is_secure=True)
    it.resolver.mxs[PLAIN] = MxAnswer(DnsStatus.OK, hosts)
    it.receiver.without_requiretls = {"old.test"}
    it.ledger.add(
        replace(row(1, recipient=f"a@{DANE}"), tls_need=TlsNeed.REQUIRETLS, site=TWO_HOSTS)
    )
    return it


TWO_HOSTS_BELL = DrainBell(NODE, MailClass.MAIN, (Path(1, TWO_HOSTS),))


async def test_every_host_is_asked_for_requiretls_before_mail_comes_back() -> None:
    it = two_hosts()
    await drained(it, TWO_HOSTS_BELL)
    assert [(e.kind, e.mx_host) for e in it.ledger.events] == [("delivered", "new.test")]

    it = two_hosts()
    it.receiver.without_requiretls.add("new.test")
    await drained(it, TWO_HOSTS_BELL)
    (told,) = it.ledger.events
    assert (told.kind, told.code, told.enhanced, told.tls_policy, told.tls_result) == (
        *("bounced", 550, "5.7.30", "tlsa", ""),
    )

    it = two_hosts()
    it.receiver.tls = lambda at: (impostor if at.host == "new.test" else honest)(at)
    await drained(it, TWO_HOSTS_BELL)
    assert it.ledger.kinds() == ["deferred"]
    assert it.shaper.cooled == []


async def test_requiretls_leaves_a_session_whose_host_does_not_have_it() -> None:
    it = two_hosts()
    first = replace(row(2, recipient=f"b@{PLAIN}"), site=TWO_HOSTS)
    it.ledger.rows = {2: first, **it.ledger.rows}
    await drained(it, TWO_HOSTS_BELL)
    hosts = {(e.kind, e.recipient_domain, e.mx_host) for e in it.ledger.events}
    assert ("delivered", DANE, "new.test") in hosts
    assert it.ledger.kinds() == ["delivered"] * 2


async def test_a_policy_that_comes_while_a_session_is_opened_holds_for_what_it_carries() -> None:
    snapshot = limited(1)
    it = one_site(snapshot)
    without_tls(it)
    real = it.receiver.connect

    async def connect(endpoint: Endpoint) -> ScriptedConnection:
        connection = await real(endpoint)
        strict = {PLAIN: DomainTls(1, PLAIN, DomainTlsLevel.VERIFIED)}
        it.policy.snapshot = replace(snapshot, revision=snapshot.revision + 1, domain_tls=strict)
        return connection

    it.receiver.connect = connect  # type: ignore[method-assign]
    it.ledger.add(*(row(n, recipient=f"r{n}@{PLAIN}") for n in range(1, 6)))
    await drained(it)
    assert it.receiver.delivered == []
    assert set(it.ledger.kinds()) == {"deferred"}


async def test_a_slow_policy_host_holds_up_its_own_domain_alone() -> None:
    others, rest = [f"r{n}@{PLAIN}" for n in range(1, 8)], asyncio.Event()

    @dataclass
    class Slow(Policies):
        async def policy(self, domain: str) -> StsAnswer:
            if domain == STS:
                await rest.wait()
            return await super().policy(domain)

        async def at_hand(self, domain: str) -> StsAnswer | None:
            return None if domain == STS and not rest.is_set() else await super().policy(domain)

    it = one_site(limited(1), Slow({STS: sts()}))

    def answer(message: WireMessage) -> SmtpReply:
        if message.forward_paths == (others[-1],):
            rest.set()
        return OK

    it.receiver.answer = answer  # type: ignore[method-assign]
    recipients = [others[0], f"slow@{STS}", *others[1:]]
    it.ledger.add(*(row(n, recipient=each) for n, each in enumerate(recipients, 1)))
    await drained(it)
    sent = [path for message in it.receiver.delivered for path in message.forward_paths]
    assert sent == [*others, f"slow@{STS}"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (MxAnswer(DnsStatus.TEMPORARY, detail="SERVFAIL"), ("deferred", 451, "4.4.3")),
        (MxAnswer(DnsStatus.NO_DOMAIN), ("bounced", 550, "5.1.2")),
        (MxAnswer(DnsStatus.NO_DATA), ("bounced", 550, "5.1.2")),
        (MxAnswer(DnsStatus.NULL_MX), ("bounced", 556, "5.1.10")),
    ],
)
async def test_no_open_session_takes_mail_whose_exchangers_are_gone(
    answer: MxAnswer, told: tuple[str, int, str]
) -> None:
    it = one_site(limited(1))
    without_tls(it)
    it.resolver.mxs[DANE] = answer
    it.ledger.add(row(1, recipient=f"a@{PLAIN}"), row(2, recipient=f"b@{DANE}"))
    await drained(it)
    assert taken(it) == [f"a@{PLAIN}"]
    (event,) = [each for each in it.ledger.events if each.recipient_domain == DANE]
    assert (event.kind, event.code, event.enhanced) == told


@pytest.mark.parametrize("recipients", [[f"b@{DANE}"], [f"a@{PLAIN}", f"b@{DANE}"]])
@pytest.mark.parametrize("status", [DnsStatus.TEMPORARY, DnsStatus.NO_DOMAIN])
async def test_a_host_whose_addresses_are_gone_is_not_taken_for_one_without_records(
    recipients: list[str], status: DnsStatus
) -> None:
    it = one_site(limited(1))
    without_tls(it)
    real, looks = it.resolver.addresses, list[str]()

    async def addresses(host: str) -> AddressAnswer:
        looks.append(host)
        found = await real(host)
        return found if len(looks) == 1 else AddressAnswer(status, detail="gone")

    it.resolver.addresses = addresses  # type: ignore[method-assign]
    it.ledger.add(*(row(n, recipient=each) for n, each in enumerate(recipients, 1)))
    await drained(it)
    assert taken(it) == recipients[:-1]
    last = it.ledger.events[-1]
    assert (last.kind, last.recipient_domain) == ("deferred", DANE)


# --- what is remembered runs out ------------------------------------------------------------------


class SetClock(RunningClock):
    """A clock that a test moves."""

    passed_s = 0.0

    def monotonic(self) -> float:
        return self.passed_s


def test_what_failed_is_forgotten_in_its_time() -> None:
    clock = SetClock()
    memory, error = TlsMemory(clock), failed(TlsResult.NOT_OFFERED)
    memory.note_broken(SITE, "validation-failure")
    memory.note_unmet((DANE, 1), error)
    clock.passed_s = UNMET_S - 1
    assert (memory.broken(SITE), memory.unmet((DANE, 1))) == ("validation-failure", error)
    clock.passed_s = BROKEN_S - 1
    assert (memory.broken(SITE), memory.unmet((DANE, 1))) == ("validation-failure", None)
    clock.passed_s = BROKEN_S
    assert memory.broken(SITE) == ""


async def test_tls_is_tried_again_when_its_failure_is_forgotten() -> None:
    it, clock = one_site(limited(1)), SetClock()
    it.receiver.tls = broken
    async with running(it) as (dispatcher, settler):
        dispatcher.tls._clock = clock
        for number, passed_s in enumerate((0.0, BROKEN_S - 1, BROKEN_S), 1):
            clock.passed_s = passed_s
            # The store of the node's processes forgets by itself.
            it.hosts.broken_tls.clear()
            it.ledger.add(row(number, recipient=f"r{number}@{PLAIN}"))
            await dispatcher.ring(BELL)
            it.receiver.tls = broken if number == 1 else honest
        await settler.flush()
    ways = [endpoint.tls.value for endpoint in it.receiver.endpoints]
    assert ways == ["opportunistic", "none", "none", "opportunistic"]
    assert [e.tls_version for e in it.ledger.events] == ["", "", "TLSv1.3"]

"""Each message travels as its own domain demands, whatever sessions are open to its site."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mailcore.address import ReversePath
from mailcore.bells import DrainBell, Path
from mailcore.outcome import MailClass, RowState, Scope, TlsNeed, TlsResult
from mailcore.policy.model import DomainTls, Node, PolicySnapshot, Strategy
from mailcore.policy.words import DomainTlsLevel, TlsMode
from mailcore.ports import (
    AddressAnswer,
    DnsStatus,
    Endpoint,
    MxAnswer,
    MxHost,
    StsAnswer,
    TlsaAnswer,
    TlsFailed,
)
from mailcore.reply import SmtpReply
from mailcore.security import CLEAR, Proof, Proven, StsMode, StsPolicy, Tlsa
from tests.support.builders import NODE, SITE, policy, row
from tests.support.fakes import World, world
from tests.workers.test_drain import drained

EE = Tlsa(3, 1, 1, b"e" * 32)
TA = Tlsa(2, 0, 1, b"t" * 32)
DANE, STS, PLAIN = "dane.test", "sts.test", "plain.test"


@dataclass
class Policies:
    """StsSource of a table."""

    known: dict[str, StsAnswer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def policy(self, domain: str) -> StsAnswer:
        self.asked.append(domain)
        return self.known.get(domain, StsAnswer())

    async def at_hand(self, domain: str) -> StsAnswer | None:
        return await self.policy(domain)


def sts(mode: StsMode = StsMode.ENFORCE, *mx: str) -> StsAnswer:
    return StsAnswer(StsPolicy(STS, "1", mode, mx or (SITE,), 86400))


def failed(result: TlsResult) -> TlsFailed:
    reply = SmtpReply.local(451, "4.7.5", result.value)
    return TlsFailed(reply, scope=Scope.HOST, stage="starttls", result=result)


def honest(endpoint: Endpoint) -> Proven:
    """A server that proves whatever it is asked for, with a certificate for its host alone."""
    demand = endpoint.demand
    if demand is None or demand.proof is Proof.NONE:
        return Proven(True)
    if demand.proof is Proof.TLSA:
        names = frozenset(demand.names[:1])
        return Proven(True, tlsa=frozenset(demand.tlsa), tlsa_names=names)
    return Proven(True, names=frozenset(demand.names[:1]))


def impostor(endpoint: Endpoint) -> Proven:
    """A server that encrypts, and proves nothing."""
    if endpoint.demand is not None and endpoint.demand.proof is not Proof.NONE:
        raise failed(TlsResult.NOT_TRUSTED)
    return Proven(True)


def broken(endpoint: Endpoint) -> Proven:
    """A server whose handshakes fail."""
    raise failed(TlsResult.VALIDATION_FAILURE)


def one_site(snapshot: PolicySnapshot | None = None, policies: Policies | None = None) -> World:
    """Three domains of one host: one with DANE, one with MTA-STS, one with neither."""
    it = world(snapshot, sts=policies or Policies({STS: sts()}))
    answer = MxAnswer(DnsStatus.OK, (MxHost(10, SITE),))
    it.resolver.mxs = {
        "peer.test": answer,
        PLAIN: answer,
        STS: answer,
        DANE: replace(answer, is_secure=True),
    }
    it.resolver.hosts[SITE] = AddressAnswer(
        DnsStatus.OK, ("127.0.0.1",), is_secure=True, canonical=SITE
    )
    it.resolver.tlsas[SITE] = TlsaAnswer(DnsStatus.OK, (EE,), is_secure=True)
    it.receiver.tls = honest
    return it


def limited(connections: int) -> PolicySnapshot:
    return policy(strategy=Strategy(1, "few", connections, 0, 0, 0.0))


def proofs(it: World) -> list[Proof]:
    """What was asked of the server, session by session."""
    found = []
    for endpoint in it.receiver.endpoints:
        found.append(endpoint.demand.proof if endpoint.demand is not None else Proof.NONE)
    return found


async def test_domains_of_one_site_each_get_a_session_as_they_demand() -> None:
    it = one_site(limited(1))
    names = (PLAIN, DANE, STS)
    it.ledger.add(*(row(n, recipient=f"r{n}@{names[n % 3]}") for n in range(1, 31)))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 30
    told = {(e.recipient_domain, e.tls_policy, e.tls_result) for e in it.ledger.events}
    assert told == {(PLAIN, "no-policy-found", ""), (DANE, "tlsa", ""), (STS, "sts", "")}
    assert {Proof.TLSA, Proof.PKIX} <= set(proofs(it))
    # Never more than one session a message; and none that sent nothing.
    assert len(it.receiver.endpoints) <= 30


async def test_a_session_that_proved_more_carries_those_who_ask_for_less() -> None:
    it = one_site(limited(1))
    it.ledger.add(
        row(1, recipient=f"a@{DANE}"),
        *(row(n, recipient=f"r{n}@{PLAIN}") for n in range(2, 12)),
    )
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 11
    assert proofs(it) == [Proof.TLSA]


async def test_a_certificate_for_one_domain_below_an_authority_carries_no_mail_of_another() -> None:
    it = one_site(limited(1))
    it.resolver.mxs[PLAIN] = it.resolver.mxs[DANE]
    it.resolver.tlsas[SITE] = TlsaAnswer(DnsStatus.OK, (TA,), is_secure=True)

    def shown(endpoint: Endpoint) -> Proven:
        """A server that has a certificate of the authority, for one of the domains."""
        demand = endpoint.demand
        if demand is None or PLAIN not in demand.names:
            raise failed(TlsResult.WRONG_HOST)
        return Proven(True, tlsa=frozenset(demand.tlsa), tlsa_names=frozenset({PLAIN}))

    it.receiver.tls = shown
    it.ledger.add(row(1, recipient=f"a@{PLAIN}"), row(2, recipient=f"b@{DANE}"))
    await drained(it)
    assert [m.forward_paths for m in it.receiver.delivered] == [(f"a@{PLAIN}",)]
    assert {(e.recipient_domain, e.tls_result) for e in it.ledger.events} == {
        (PLAIN, ""),
        (DANE, "certificate-host-mismatch"),
    }


async def test_many_sessions_and_two_kinds_of_mail_neither_spin_nor_starve() -> None:
    it = one_site(limited(4))
    names = (PLAIN, DANE, STS)
    it.ledger.add(*(row(n, recipient=f"r{n}@{names[n % 3]}") for n in range(1, 301)))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 300
    # Mail of three kinds that takes turns shares sessions all the same.
    assert len(it.receiver.endpoints) <= 60


async def test_mail_that_demands_more_waits_alone_where_its_host_is_an_impostor() -> None:
    it = one_site(limited(2))
    it.receiver.tls = impostor
    it.ledger.add(
        *(row(n, recipient=f"r{n}@{DANE}") for n in range(1, 21)),
        *(row(n, recipient=f"r{n}@{PLAIN}") for n in range(21, 41)),
    )
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["deferred"] * 20 + ["delivered"] * 20
    waiting = [event for event in it.ledger.events if event.kind == "deferred"]
    assert {(e.recipient_domain, e.tls_policy, e.tls_result) for e in waiting} == {
        (DANE, "tlsa", "certificate-not-trusted")
    }
    assert {e.mx_host for e in waiting} == {SITE}
    # A look of each session that was opened at first was enough for all of them, and the path did
    # not rest.
    assert 1 <= proofs(it).count(Proof.TLSA) <= 2
    assert it.shaper.cooled == []


async def test_dane_and_enforced_sts_never_go_in_clear_where_starttls_is_gone() -> None:
    it = one_site()
    it.receiver.tls = None
    it.ledger.add(row(1, recipient=f"a@{DANE}"), row(2, recipient=f"b@{STS}"))
    await drained(it)
    assert it.receiver.delivered == []
    assert {e.tls_result for e in it.ledger.events} == {"starttls-not-supported"}
    assert all(endpoint.tls.value == "required" for endpoint in it.receiver.endpoints)


async def test_tlsa_records_that_cannot_be_had_keep_mail_from_the_host() -> None:
    it = one_site()
    it.resolver.tlsas[SITE] = TlsaAnswer(DnsStatus.TEMPORARY, detail="SERVFAIL")
    it.ledger.add(row(1, recipient=f"a@{DANE}"), row(2, recipient=f"b@{PLAIN}"))
    await drained(it)
    assert [m.forward_paths for m in it.receiver.delivered] == [(f"b@{PLAIN}",)]
    (told,) = [event for event in it.ledger.events if event.kind == "deferred"]
    assert (told.tls_policy, told.tls_result, told.enhanced) == ("tlsa", "dnssec-invalid", "4.7.5")
    assert "SERVFAIL" in told.reply


async def test_the_next_host_is_tried_where_one_fails_the_demand() -> None:
    it = one_site()
    hosts = (MxHost(10, "bad.test"), MxHost(20, SITE))
    it.resolver.mxs[DANE] = MxAnswer(DnsStatus.OK, hosts, is_secure=True)
    bad = AddressAnswer(DnsStatus.OK, ("127.0.0.2",), is_secure=True, canonical="bad.test")
    it.resolver.hosts["bad.test"] = bad
    it.resolver.tlsas["bad.test"] = TlsaAnswer(DnsStatus.OK, (EE,), is_secure=True)
    it.receiver.tls = lambda at: (impostor if at.host == "bad.test" else honest)(at)
    site = f"bad.test,{SITE}"
    it.ledger.add(replace(row(1, recipient=f"a@{DANE}"), site=site))
    await drained(it, DrainBell(NODE, MailClass.MAIN, (Path(1, site),)))
    assert [endpoint.host for endpoint in it.receiver.endpoints] == ["bad.test", SITE]
    assert it.ledger.kinds() == ["delivered"]


async def test_a_failed_handshake_is_tried_once_in_clear_and_remembered_with_its_reason() -> None:
    it = one_site(limited(1))
    it.receiver.tls = broken
    it.ledger.add(*(row(n, recipient=f"r{n}@{PLAIN}") for n in range(1, 4)))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 3
    assert [endpoint.tls.value for endpoint in it.receiver.endpoints] == ["opportunistic", "none"]
    assert {e.tls_result for e in it.ledger.events} == {"validation-failure"}


async def test_a_server_without_starttls_is_counted_as_one() -> None:
    it = one_site()
    it.receiver.tls = lambda endpoint: CLEAR
    it.ledger.add(row(1, recipient=f"a@{PLAIN}"))
    await drained(it)
    assert [(e.kind, e.tls_result) for e in it.ledger.events] == [
        ("delivered", "starttls-not-supported")
    ]


async def test_a_tested_policy_sends_all_the_same_and_counts_what_failed() -> None:
    it = one_site(limited(1), Policies({STS: sts(StsMode.TESTING)}))
    it.receiver.tls = impostor
    it.ledger.add(*(row(n, recipient=f"r{n}@{STS}") for n in range(1, 4)))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 3
    assert proofs(it) == [Proof.PKIX, Proof.NONE]
    told = {(e.tls_policy, e.tls_result, e.tls_version) for e in it.ledger.events}
    assert told == {("sts", "certificate-not-trusted", "TLSv1.3")}


async def test_a_host_that_an_enforced_policy_does_not_name_gets_nothing() -> None:
    it = one_site(None, Policies({STS: sts(StsMode.ENFORCE, "mx.else.test")}))
    it.ledger.add(row(1, recipient=f"a@{STS}"))
    await drained(it)
    assert it.receiver.endpoints == []
    assert it.ledger.rows[1].state is RowState.WAITING
    (told,) = it.ledger.events
    assert (told.tls_policy, told.tls_result) == ("sts", "validation-failure")


async def test_an_operators_row_is_about_its_domain_and_nobody_else() -> None:
    row_of = DomainTls(1, PLAIN, DomainTlsLevel.REQUIRED)
    snapshot = replace(limited(1), domain_tls={PLAIN: row_of})
    it = one_site(snapshot)
    it.receiver.tls = None
    it.ledger.add(row(1, recipient=f"a@{PLAIN}"), row(2, recipient="b@peer.test"))
    await drained(it)
    assert [m.forward_paths for m in it.receiver.delivered] == [("b@peer.test",)]
    told = {(e.recipient_domain, e.kind, e.tls_policy) for e in it.ledger.events}
    assert told == {
        (PLAIN, "deferred", "operator"),
        ("peer.test", "delivered", "no-policy-found"),
    }


async def test_what_is_demanded_of_a_host_is_demanded_of_one_of_the_domains_own() -> None:
    snapshot = limited(1)
    isp = replace(snapshot.isps[1], mx_suffixes=("isp.test",), is_one_site=True)
    row_of = DomainTls(1, DANE, DomainTlsLevel.REQUIRED)
    it = one_site(replace(snapshot, isps={1: isp}, domain_tls={DANE: row_of}))
    site = "isp:isp.test"
    it.resolver.mxs[PLAIN] = MxAnswer(DnsStatus.OK, (MxHost(10, "a.isp.test"),))
    it.resolver.mxs[DANE] = MxAnswer(DnsStatus.OK, (MxHost(10, "b.isp.test"),))
    it.ledger.add(
        replace(row(1, recipient=f"a@{PLAIN}"), site=site),
        replace(row(2, recipient=f"b@{DANE}"), site=site),
        replace(row(3, recipient=f"c@{PLAIN}"), site=site),
    )
    await drained(it, DrainBell(NODE, MailClass.MAIN, (Path(1, site),)))
    hosts = {(e.kind, e.recipient_domain, e.mx_host) for e in it.ledger.events}
    assert ("delivered", DANE, "b.isp.test") in hosts
    assert ("delivered", DANE, "a.isp.test") not in hosts
    assert it.ledger.rows == {}


async def test_a_domain_that_is_to_go_in_clear_takes_nobody_along() -> None:
    row_of = DomainTls(1, PLAIN, DomainTlsLevel.NONE)
    it = one_site(replace(limited(1), domain_tls={PLAIN: row_of}))
    it.ledger.add(row(1, recipient=f"a@{PLAIN}"), row(2, recipient="b@peer.test"))
    await drained(it)
    told = {
        (e.recipient_domain, e.tls_version, e.tls_policy, e.tls_result) for e in it.ledger.events
    }
    assert told == {
        (PLAIN, "", "operator", ""),
        ("peer.test", "TLSv1.3", "no-policy-found", ""),
    }


async def test_operators_may_let_mail_pass_a_broken_record() -> None:
    row_of = DomainTls(1, DANE, DomainTlsLevel.OPPORTUNISTIC)
    it = one_site(replace(policy(), domain_tls={DANE: row_of}))
    it.receiver.tls = impostor
    it.ledger.add(row(1, recipient=f"a@{DANE}"))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"]


async def test_a_node_asks_only_for_what_it_is_told_to() -> None:
    policies = Policies({STS: sts()})
    node = Node(1, NODE, uses_dane=False, uses_mta_sts=False)
    it = one_site(replace(policy(), nodes={NODE: node}), policies)
    it.receiver.tls = impostor
    it.ledger.add(row(1, recipient=f"a@{DANE}"), row(2, recipient=f"b@{STS}"))
    await drained(it)
    assert it.ledger.kinds() == ["delivered", "delivered"]
    assert policies.asked == []


async def test_requiretls_travels_authenticated_and_says_so_at_mail() -> None:
    it = one_site()
    it.ledger.add(
        replace(row(1, recipient=f"a@{DANE}"), tls_need=TlsNeed.REQUIRETLS),
        replace(row(2, recipient=f"b@{PLAIN}"), tls_need=TlsNeed.REQUIRETLS),
        row(3, recipient=f"c@{PLAIN}"),
    )
    await drained(it)
    sent = {m.forward_paths[0]: m.requires_tls for m in it.receiver.delivered}
    assert sent == {f"a@{DANE}": True, f"c@{PLAIN}": False}
    (told,) = [event for event in it.ledger.events if event.kind == "deferred"]
    assert "REQUIRETLS" in told.reply


async def test_a_report_of_mail_with_requiretls_goes_encrypted_to_whom_nobody_can_check() -> None:
    it = one_site()
    about = replace(row(1, recipient=f"a@{PLAIN}"), tls_need=TlsNeed.REQUIRETLS)
    it.ledger.add(replace(about, reverse_path=ReversePath("", "")))
    await drained(it)
    (sent,) = it.receiver.delivered
    assert sent.requires_tls
    assert {endpoint.tls for endpoint in it.receiver.endpoints} == {TlsMode.REQUIRED}


async def test_policies_are_not_asked_for_message_by_message() -> None:
    policies = Policies({STS: sts()})
    it = one_site(limited(1), policies)
    it.ledger.add(*(row(n, recipient=f"r{n}@{STS}") for n in range(1, 101)))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 100
    assert len(policies.asked) <= 2 * len(it.receiver.endpoints)

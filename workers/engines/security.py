"""What a job demands of TLS, and whether a session that is open meets it.

Gives    wish_of, demand_at; Grounds: an open session and what it may carry (`suits`)
Takes    a job, the resolver's and the MTA-STS cache's answers
Raises   nothing; what DNS cannot tell is part of the answers
Follows  RFC 7672 §2.2 (which TLSA records count), RFC 8461; decisions: mailcore.security

A session of a site may carry any domain of it, but each message only as its own domain wants:
a demand never spreads to another domain and is never lowered by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mailcore.envelope import QueuedRow
from mailcore.outcome import SessionInfo, TlsNeed, TlsPolicy, TlsResult
from mailcore.policy.lookup import domain_tls_for
from mailcore.policy.model import Relay
from mailcore.policy.words import HeloMode, TlsMode
from mailcore.ports import (
    Connection,
    DnsStatus,
    MxAnswer,
    StsAnswer,
    StsSource,
    TlsaAnswer,
    TlsDemand,
)
from mailcore.security import (
    Level,
    Wish,
    demand_of_host,
    demand_of_relay,
    host_name,
    plan_wish,
)
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job
from workers.engines.tls_memory import TlsMemory

# Domain, what its message and its path ask for, the policy they were asked under, and as whom its
# sender greets.
Asked = tuple[str, str, int, int, str]


def asked_of(feed: Feed, job: Job, ports: DeliverPorts) -> Asked:
    """Return all that a job's session depends on, but for what DNS says."""
    row = job.row
    revision = ports.policy.current().revision
    greeting = greeting_of(feed, job)
    return row.recipient.domain, job.tls.value, need_of(row).value, revision, greeting


def greeting_of(feed: Feed, job: Job) -> str:
    """Return the name in EHLO, as the strategy of a job's sender has it."""
    match job.helo:
        case HeloMode.FROM_DOMAIN:
            return job.domain
        case HeloMode.IP:
            address = feed.source.address
            return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        case _:
            # The PTR name is kept on the source, where upkeep compares it with DNS.
            return feed.source.ehlo_name


async def wish_of(job: Job, answer: MxAnswer, *, ports: DeliverPorts) -> Wish:
    """Return what is asked for a job's domain whatever its host; wait for its policy if need be."""
    source = _policies(job, ports)
    sts = StsAnswer() if source is None else await source.policy(job.row.recipient.domain)
    return _wish(job, answer, sts, ports=ports)


def _policies(job: Job, ports: DeliverPorts) -> StsSource | None:
    """Return whom to ask for the MTA-STS policy of a job's domain, None if it does not count."""
    policy = ports.policy.current()
    node = policy.nodes.get(ports.node)
    is_asked = domain_tls_for(policy, domain=job.row.recipient.domain) is None
    is_asked = is_asked and job.tls is not TlsMode.NONE and (node is None or node.uses_mta_sts)
    return ports.sts if is_asked else None


def _wish(job: Job, answer: MxAnswer, sts: StsAnswer, *, ports: DeliverPorts) -> Wish:
    policy, domain = ports.policy.current(), job.row.recipient.domain
    node = policy.nodes.get(ports.node)
    return plan_wish(
        domain,
        mode=job.tls,
        need=need_of(job.row),
        word=domain_tls_for(policy, domain=domain),
        sts=sts,
        is_mx_secure=answer.is_secure,
        uses_dane=node is None or node.uses_dane,
        canonical=answer.canonical,
    )


def need_of(row: QueuedRow) -> TlsNeed:
    """Return what a message asks for. A report of one with REQUIRETLS must be encrypted and is not
    lost because its sender's server cannot show who it is (RFC 8689 §5)."""
    if row.tls_need is TlsNeed.REQUIRETLS and row.reverse_path.is_null:
        return TlsNeed.REQUIRED
    return row.tls_need


def wants_requiretls(job: Job) -> bool:
    """Whether a message may only go to a host that offers REQUIRETLS."""
    return need_of(job.row) is TlsNeed.REQUIRETLS


async def demand_at(wish: Wish, host: str, *, ports: DeliverPorts) -> TlsDemand:
    """Return what the wish comes to with one host."""
    tlsa = await _tlsa(host, ports=ports) if wish.asks_dane else None
    return demand_of_host(wish, host, tlsa)


async def _tlsa(host: str, *, ports: DeliverPorts) -> TlsaAnswer | None:
    """Return a host's records: of the name behind its aliases, else of its own (RFC 7672 §2.2.3).

    None where they would not count, so that no broken name server is asked for nothing. Whether
    they would is not known while the host's addresses cannot be had.
    """
    resolver, port = ports.resolver, ports.smtp_port
    found = await resolver.addresses(host)
    own = host_name(host)
    if found.status is not DnsStatus.OK:
        detail = found.detail or f"{own}: {found.status.value}"
        return TlsaAnswer(DnsStatus.TEMPORARY, base=own, detail=detail)
    if not (found.is_secure or found.is_alias_secure):
        return None
    if found.is_secure and found.canonical and found.canonical != own:
        answer = await resolver.tlsa(found.canonical, port)
        if answer.status is DnsStatus.TEMPORARY or (answer.is_secure and answer.records):
            return replace(answer, base=found.canonical)
    return replace(await resolver.tlsa(own, port), base=own)


@dataclass(slots=True)
class Grounds:
    """An open session, and the reasons why it may carry which mail.

    `fallback`: why it is in clear although TLS was wanted, as RFC 8460 says it; `is_plain`: it is
    in clear because nobody wanted any. `may_carry` holds what was found to suit, with what its
    events say of policy and result. A session with a `relay` carries mail for this very relay that
    wants no more of TLS than it has: what domains publish is the relay's affair.
    """

    connection: Connection
    host: str
    fallback: str = ""
    is_plain: bool = False
    may_carry: dict[Asked, tuple[str, str]] = field(default_factory=dict)
    relay: Relay | None = None

    async def suits(self, feed: Feed, job: Job, *, ports: DeliverPorts, memory: TlsMemory) -> bool:
        """Whether a job may travel in this session; its events are given their words."""
        if job.relay != self.relay:
            # The policy changed meanwhile: another host, other TLS, another login.
            return False
        asked = asked_of(feed, job, ports)
        if asked[-1] != self.connection.session.ehlo_name:
            return False
        if self.relay is not None:
            job.tls_words = TlsPolicy.OPERATOR.value, self.fallback
            demand = demand_of_relay(self.relay, mode=job.tls, need=need_of(job.row))
            return self.connection.proven.meets(demand)
        words = self.may_carry.get(asked)
        if words is None:
            words = await self._weigh(job, ports=ports, memory=memory)
            if words is None:
                return False
            self.may_carry[asked] = words
        job.tls_words = words
        return True

    async def _weigh(
        self, job: Job, *, ports: DeliverPorts, memory: TlsMemory
    ) -> tuple[str, str] | None:
        if wants_requiretls(job) and not self.connection.takes_requiretls:
            # Another host may: its own opening looks for one.
            return None
        answer = await ports.resolver.mx(job.row.recipient.domain)
        if answer.status is not DnsStatus.OK:
            # What the domain demands is not known: its own opening says what comes of that.
            return None
        source = _policies(job, ports)
        sts = StsAnswer() if source is None else await source.at_hand(job.row.recipient.domain)
        if sts is None:
            # Others of the session do not wait for this domain's web server.
            return None
        demand = await demand_at(_wish(job, answer, sts, ports=ports), self.host, ports=ports)
        proven = self.connection.proven
        if not proven.meets(demand) or (self.is_plain and demand.level is not Level.NONE):
            return None
        own = {host_name(host.name) for host in answer.hosts}
        if demand.is_strict and host_name(self.host) not in own:
            # An ISP's one site has many hosts; what is demanded is a host of this very domain.
            return None
        result = demand.result
        if demand.is_tested and proven.names.isdisjoint(demand.names):
            result = memory.broken(tested(self.host))
            if not result:
                return None
        return self.words(demand, result)

    def words(self, demand: TlsDemand, result: str) -> tuple[str, str]:
        """Return policy and result as events say them."""
        if demand.level is Level.NONE:
            return TlsPolicy.OPERATOR.value, ""
        return demand.by.value, result or self.fallback


def tested(host: str) -> tuple[str, str]:
    """Return the key under which it is remembered that a host's certificate is not valid."""
    return "pkix", host_name(host)


def told_of(session: SessionInfo, job: Job) -> SessionInfo:
    """Return a session as the events of one job tell of it: policy and result are its own."""
    policy, result = job.tls_words
    if session.tls_policy == policy and session.tls_result == result:
        return session
    return replace(session, tls_policy=policy, tls_result=result)


NOT_OFFERED = TlsResult.NOT_OFFERED.value

"""Open a session for a job: which hosts, in which order, as whom, and how encrypted.

Takes    a feed, the job that wants a session, who remembers broken TLS (`Told`)
Gives    open_session
Raises   TransportError, as the last host tried has it; its scope says who waits. TLS that does not
         meet the job's own demand is scope MESSAGE: others of the site may demand less
Follows  RFC 5321 §5.1 (hosts in order), RFC 7435 (opportunistic TLS), RFC 7672 §2.2, RFC 8461 §5
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from mailcore.outcome import Scope, SessionInfo, TlsResult
from mailcore.policy.words import HeloMode, TlsMode
from mailcore.ports import (
    ConnectFailed,
    DnsStatus,
    Endpoint,
    MxAnswer,
    TlsDemand,
    TlsFailed,
    TransportError,
)
from mailcore.reply import SmtpReply
from mailcore.security import Level, Proof
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job
from workers.engines.relaying import open_relay_session
from workers.engines.security import NOT_OFFERED, Grounds, asked_of, demand_at, tested, wish_of
from workers.engines.targets import Target, Targets, note_failure
from workers.engines.told import Told

MOST_ADDRESSES = 12
# One host's addresses must not hide the hosts behind it.
MOST_OF_A_HOST = 4


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to speak to a host: `result` is what failed before it was taken."""

    tls: TlsMode
    demand: TlsDemand | None = None
    result: str = ""


async def open_session(feed: Feed, job: Job, *, ports: DeliverPorts, told: Told) -> Grounds:
    """Try the site's hosts in order; raise what the last of them said.

    Scope MESSAGE is about the job's domain alone; any wider scope is about the path.
    """
    if job.relay is not None:
        ehlo_name = _ehlo_name(feed, job)
        return await open_relay_session(feed, job, job.relay, ehlo_name=ehlo_name, ports=ports)
    domain = job.row.recipient.domain
    answer = await ports.resolver.mx(domain)
    if answer.status is not DnsStatus.OK:
        # About this domain alone: the others of the site have answers of their own.
        reply = SmtpReply.local(451, "4.4.3", f"{domain}: {answer.detail or answer.status.value}")
        raise ConnectFailed(reply, scope=Scope.MESSAGE, stage="dns")
    asked = asked_of(job, ports)
    known = told.tls.unmet(asked)
    if known is not None:
        raise known.with_traceback(None)
    unmet: list[TlsFailed] = []
    try:
        return await _first_that_works(feed, job, answer, unmet, ports=ports, told=told)
    except TransportError as error:
        if not unmet:
            raise
        # A host that gives no TLS, or not the right one, is no reason for others to wait.
        last = unmet[-1]
        last.scope = Scope.MESSAGE
        told.tls.note_unmet(asked, last)
        if last is error:
            raise
        raise last from error


async def _first_that_works(
    feed: Feed,
    job: Job,
    answer: MxAnswer,
    unmet: list[TlsFailed],
    *,
    ports: DeliverPorts,
    told: Told,
) -> Grounds:
    """Return a session with the first host that gives one; note in `unmet` who failed a demand."""
    domain = job.row.recipient.domain
    wish = await wish_of(job, answer, ports=ports)
    error: TransportError | None = None
    targets = Targets(feed, domain, answer, ports=ports)
    tried = Counter[str]()
    while tried.total() < MOST_ADDRESSES and (target := await targets.next()) is not None:
        if tried[target.host] == MOST_OF_A_HOST:
            continue
        demand = await demand_at(wish, target.host, ports=ports)
        if demand.refusal:
            error = _refused(target.host, demand)
            unmet.append(error)
            continue
        tried[target.host] += 1
        try:
            grounds = await _connect(feed, job, target, demand, ports=ports, told=told)
        except TransportError as exc:
            error = exc
            if isinstance(exc, TlsFailed) and demand.is_strict:
                unmet.append(exc)
            await note_failure(feed, target, exc, ports=ports)
        else:
            await _note_alive(feed, target, grounds, ports=ports)
            return grounds
    raise error or targets.none_left()


async def _note_alive(feed: Feed, target: Target, grounds: Grounds, *, ports: DeliverPorts) -> None:
    """Forgive an address that was dead; whoever gives up meanwhile leaves no line open."""
    if target.failures:
        try:
            await ports.hosts.note_alive(feed.source.address, target.address)
        except BaseException:
            await grounds.connection.close()
            raise


async def _connect(
    feed: Feed,
    job: Job,
    target: Target,
    demand: TlsDemand,
    *,
    ports: DeliverPorts,
    told: Told,
) -> Grounds:
    """Try the ways that the demand leaves, the best first."""
    host, address = target.host, target.address
    plain = Endpoint(
        host=host,
        address=address,
        port=ports.smtp_port,
        source_address=feed.source.address,
        ehlo_name=_ehlo_name(feed, job),
        tls=TlsMode.NONE,
    )
    ways = _ways(demand, target, told)
    result = demand.result
    for number, way in enumerate(ways, 1):
        result = result or way.result
        try:
            endpoint = replace(plain, tls=way.tls, demand=way.demand)
            connection = await ports.connector.connect(endpoint)
        except TlsFailed as exc:
            words = demand.by.value, exc.result.value
            exc.session = SessionInfo(host, address, tls_policy=words[0], tls_result=words[1])
            if number == len(ways):
                raise
            result = exc.result.value
            if way.demand is not None:
                told.tls.note_broken(tested(host), result)
            else:
                # In clear rather than not at all; RFC 7435 calls it opportunistic security.
                told.tls.note_broken(host, result)
                await ports.hosts.note_broken_tls(host)
            continue
        fallback = ""
        is_plain = demand.level is Level.NONE
        if not connection.proven.is_encrypted and not is_plain:
            fallback = result or NOT_OFFERED
        grounds = Grounds(connection, host, fallback, is_plain)
        grounds.may_carry[asked_of(job, ports)] = grounds.words(demand, result)
        return grounds
    raise AssertionError("a demand leaves one way at least")


def _ways(demand: TlsDemand, target: Target, told: Told) -> list[_Way]:
    """Return the ways to speak to a host, the best first; each fails into the next."""
    if demand.level is Level.NONE:
        return [_Way(TlsMode.NONE)]
    strict = demand.level >= Level.ENCRYPTED
    tls = TlsMode.REQUIRED if strict else TlsMode.OPPORTUNISTIC
    host = target.host
    broken = told.tls.broken(host)
    if target.is_tls_broken and not broken:
        # Another process of the node met it; which word it had is told there.
        broken = TlsResult.VALIDATION_FAILURE.value
    if broken and not strict:
        return [_Way(TlsMode.NONE, result=broken)]
    ways = []
    failed = told.tls.broken(tested(host)) if demand.is_tested else ""
    if demand.proof is not Proof.NONE and not failed:
        ways.append(_Way(tls, demand))
    if demand.proof is Proof.NONE or demand.is_tested:
        ways.append(_Way(tls, result=failed))
    if not strict:
        ways.append(_Way(TlsMode.NONE))
    return ways


def _refused(host: str, demand: TlsDemand) -> TlsFailed:
    """Return why a host must not be asked at all."""
    reply = SmtpReply.local(451, "4.7.5", f"{host} must not be used: {demand.refusal}")
    result = TlsResult(demand.result)
    error = TlsFailed(reply, scope=Scope.MESSAGE, stage="starttls", result=result)
    error.session = SessionInfo(host, tls_policy=demand.by.value, tls_result=demand.result)
    return error


def _ehlo_name(feed: Feed, job: Job) -> str:
    match job.helo:
        case HeloMode.FROM_DOMAIN:
            return job.domain
        case HeloMode.IP:
            address = feed.source.address
            return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        case _:
            # The PTR name is kept on the source, where upkeep compares it with DNS.
            return feed.source.ehlo_name

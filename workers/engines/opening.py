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
from mailcore.policy.words import TlsMode
from mailcore.ports import (
    ConnectFailed,
    DnsStatus,
    Endpoint,
    MxAnswer,
    TlsDemand,
    TlsFailed,
    TransportError,
    Undeliverable,
)
from mailcore.reply import SmtpReply
from mailcore.security import Level, Proof, host_name
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job
from workers.engines.relaying import open_relay_session
from workers.engines.security import (
    NOT_OFFERED,
    Asked,
    Grounds,
    asked_of,
    demand_at,
    greeting_of,
    tested,
    wants_requiretls,
    wish_of,
)
from workers.engines.targets import (
    Target,
    Targets,
    is_of_domain_alone,
    note_alive,
    note_failure,
    refusal,
)
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
        ehlo_name = greeting_of(feed, job)
        return await open_relay_session(feed, job, job.relay, ehlo_name=ehlo_name, ports=ports)
    domain = job.row.recipient.domain
    answer = await ports.resolver.mx(domain)
    # About this domain alone: the others of the site have answers of their own.
    if answer.status is DnsStatus.TEMPORARY:
        reply = SmtpReply.local(451, "4.4.3", f"{domain}: {answer.detail or answer.status.value}")
        raise ConnectFailed(reply, scope=Scope.MESSAGE, stage="dns")
    if answer.status is not DnsStatus.OK:
        raise Undeliverable(refusal(domain, answer.status), scope=Scope.MESSAGE, stage="dns")
    asked = asked_of(feed, job, ports)
    known = told.tls.unmet(asked)
    if known is not None:
        raise known.with_traceback(None)
    unmet: list[TransportError] = []
    try:
        return await _first_that_works(feed, job, answer, asked, unmet, ports=ports, told=told)
    except Undeliverable:
        raise
    except TransportError as error:
        if not unmet:
            if await is_of_domain_alone(feed, job, answer, error, ports=ports):
                error.scope = Scope.MESSAGE
                told.tls.note_unmet(asked, error)
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
    asked: Asked,
    unmet: list[TransportError],
    *,
    ports: DeliverPorts,
    told: Told,
) -> Grounds:
    """Return a session with the first host that gives one; note in `unmet` who failed a demand."""
    domain = job.row.recipient.domain
    wish = await wish_of(job, answer, ports=ports)
    error: TransportError | None = None
    targets = Targets(feed, domain, answer, ports=ports)
    own = {host_name(host.name) for host in answer.hosts}
    lacking: set[str] = set()
    tried = Counter[str]()
    while tried.total() < MOST_ADDRESSES and (target := await targets.next()) is not None:
        if tried[target.host] == MOST_OF_A_HOST or host_name(target.host) in lacking:
            continue
        demand = await demand_at(wish, target.host, ports=ports)
        if demand.refusal:
            error = _refused(target.host, demand)
            unmet.append(error)
            continue
        tried[target.host] += 1
        try:
            grounds = await _connect(feed, job, target, demand, asked, ports=ports, told=told)
        except TransportError as exc:
            error = exc
            if isinstance(exc, TlsFailed) and demand.is_strict:
                unmet.append(exc)
            await note_failure(feed, target, exc, ports=ports)
        else:
            await note_alive(feed, target, grounds.connection, ports=ports)
            connection = grounds.connection
            if connection.takes_requiretls or not wants_requiretls(job):
                return grounds
            lacking.add(host_name(target.host))
            error = _lacks_requiretls(grounds, asked, is_everywhere=lacking >= own)
            unmet.append(error)
            await connection.close()
    raise error or targets.none_left()


async def _connect(
    feed: Feed,
    job: Job,
    target: Target,
    demand: TlsDemand,
    asked: Asked,
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
        ehlo_name=greeting_of(feed, job),
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
        # Under the policy it was asked for: of what came meanwhile nothing is known here.
        grounds.may_carry[asked] = grounds.words(demand, result)
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


def _lacks_requiretls(grounds: Grounds, asked: Asked, *, is_everywhere: bool) -> TransportError:
    """Return what a host without the extension means (RFC 8689 §4.2.1: every other is tried)."""
    text = f"the message asks for REQUIRETLS and {grounds.host} offers none"
    error: TransportError
    if is_everywhere:
        reply = SmtpReply.local(550, "5.7.30", f"{text}, nor does any other host of the domain")
        error = Undeliverable(reply, scope=Scope.MESSAGE, stage="ehlo")
    else:
        reply = SmtpReply.local(451, "4.7.30", f"{text}; not every other host could be asked")
        error = ConnectFailed(reply, scope=Scope.MESSAGE, stage="ehlo")
    policy, result = grounds.may_carry[asked]
    session = grounds.connection.session
    error.session = replace(session, tls_policy=policy, tls_result=result)
    return error

"""Open a session with the relay of a sender: where, how encrypted, as whom.

Takes    a feed, the job that wants a session, the name to greet with
Gives    open_relay_session
Raises   TransportError; a relay that cannot be reached or does not know us lets its whole path rest
Follows  RFC 4954 (AUTH), RFC 8314 §3.3 (TLS from the first octet); reference/mta-model.md §9.4

A relay's host is taken at its word: its addresses are asked for, never its MX. They are alike: the
load is spread over those that answered of late.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

from mailcore.errors import PostfleetError
from mailcore.outcome import Scope, SessionInfo, TlsPolicy
from mailcore.policy.model import Relay
from mailcore.policy.words import RelayAuth, RelayTls, TlsMode
from mailcore.ports import ConnectFailed, Endpoint, TlsDemand, TlsFailed, TransportError
from mailcore.reply import SmtpReply
from mailcore.routing.hosts import fitting
from mailcore.routing.site import shuffled
from mailcore.security import Level, Proof, demand_of_relay
from mailcore.transaction import Credentials, Mechanism
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job
from workers.engines.security import NOT_OFFERED, Grounds, need_of
from workers.engines.targets import Target, note_alive, note_failure

MOST_ADDRESSES = 6


async def open_relay_session(
    feed: Feed, job: Job, relay: Relay, *, ehlo_name: str, ports: DeliverPorts
) -> Grounds:
    """Try the relay's addresses in order; raise what the last of them said, or else which of them
    did not give this message its TLS: the others need not wait for that."""
    plain = Endpoint(
        host=relay.host,
        address="",
        port=relay.port,
        source_address=feed.source.address,
        ehlo_name=ehlo_name,
        tls=TlsMode.NONE,
        credentials=await _credentials(relay, ports=ports),
    )
    demand = demand_of_relay(relay, mode=job.tls, need=need_of(job.row))
    asks_more = demand != demand_of_relay(relay)
    unmet: TransportError | None = None
    error: TransportError | None = None
    for target in await _targets(feed, relay, ports=ports):
        endpoint = replace(plain, address=target.address)
        try:
            grounds = await _connect(endpoint, relay, demand, ports=ports)
        except TransportError as exc:
            error = exc
            if asks_more and isinstance(exc, TlsFailed):
                exc.scope = Scope.MESSAGE
                unmet = exc
            await note_failure(feed, target, exc, ports=ports)
        else:
            await note_alive(feed, target, grounds.connection, ports=ports)
            return grounds
    raise unmet or error or _unreachable(relay, "4.4.4", "has no address")


async def _connect(
    endpoint: Endpoint, relay: Relay, demand: TlsDemand, *, ports: DeliverPorts
) -> Grounds:
    """Try the ways that the demand leaves with one address, the best first."""
    result = ""
    error: TlsFailed | None = None
    for way in _ways(endpoint, relay, demand):
        try:
            connection = await ports.connector.connect(way)
        except TlsFailed as exc:
            result, policy = exc.result.value, TlsPolicy.OPERATOR.value
            exc.session = SessionInfo(
                relay.host, endpoint.address, tls_policy=policy, tls_result=result
            )
            error = exc
        else:
            is_wanted = demand.level is not Level.NONE and not connection.proven.is_encrypted
            fallback = (result or NOT_OFFERED) if is_wanted else ""
            return Grounds(connection, relay.host, fallback, relay=relay)
    if error is None:
        raise AssertionError("a demand leaves one way at least")
    raise error


def _ways(endpoint: Endpoint, relay: Relay, demand: TlsDemand) -> Sequence[Endpoint]:
    """Return the ways to speak to the relay, the best first."""
    if demand.is_strict:
        shown = demand if demand.proof is not Proof.NONE else None
        is_implicit = relay.tls is RelayTls.IMPLICIT
        return [replace(endpoint, tls=TlsMode.REQUIRED, demand=shown, is_implicit_tls=is_implicit)]
    if demand.level is Level.OPPORTUNISTIC:
        # In clear rather than not at all, so a certificate that is not checked is no loss.
        return [replace(endpoint, tls=TlsMode.OPPORTUNISTIC), endpoint]
    return [endpoint]


async def _credentials(relay: Relay, *, ports: DeliverPorts) -> Credentials | None:
    if relay.auth is RelayAuth.NONE:
        return None
    try:
        secret = (await ports.vault.open(relay.secret_ref)).decode()
    except (PostfleetError, LookupError, ValueError) as exc:
        text = f"the password for the relay {relay.host} cannot be read: {exc}"
        reply = SmtpReply.local(451, "4.3.5", text)
        raise ConnectFailed(reply, scope=Scope.SITE, stage="auth") from exc
    mechanism = None if relay.auth is RelayAuth.ANY else Mechanism(relay.auth.value)
    return Credentials(relay.login, secret, mechanism, allows_clear=relay.allows_clear)


async def _targets(feed: Feed, relay: Relay, *, ports: DeliverPorts) -> Sequence[Target]:
    """Return the addresses to try, those that are dead last; raise if none can be reached."""
    source = feed.source.address
    found = await _addresses(relay, ports=ports)
    reachable = fitting(found, source_address=source)
    if found and not reachable:
        ours, theirs = ("IPv6", "IPv4") if ":" in source else ("IPv4", "IPv6")
        text = f"has {theirs} addresses alone, and the source {source} is {ours}"
        raise _unreachable(relay, "4.4.4", text, scope=Scope.SOURCE)
    known = await ports.hosts.known(source, hosts=(), addresses=reachable)
    order = sorted(shuffled(reachable, ports.draw()), key=lambda address: address in known.dead)
    targets = [Target(relay.host, each, known.failures.get(each, 0)) for each in order]
    return targets[:MOST_ADDRESSES]


async def _addresses(relay: Relay, *, ports: DeliverPorts) -> Sequence[str]:
    try:
        return (str(ipaddress.ip_address(relay.host)),)
    except ValueError:
        answer = await ports.resolver.addresses(relay.host)
    if not answer.addresses and answer.detail:
        raise _unreachable(relay, "4.4.3", f"has no address: {answer.detail}")
    return answer.addresses


def _unreachable(
    relay: Relay, status: str, text: str, *, scope: Scope = Scope.SITE
) -> ConnectFailed:
    reply = SmtpReply.local(451, status, f"the relay {relay.host} {text}")
    return ConnectFailed(reply, scope=scope, stage="dns")

"""Open a session with the relay of a sender: where, how encrypted, as whom.

Takes    a feed, the job that wants a session, the name to greet with
Gives    open_relay_session
Raises   TransportError; a relay that cannot be reached or does not know us lets its whole path rest
Follows  RFC 4954 (AUTH), RFC 8314 §3.3 (TLS from the first octet); reference/mta-model.md §9.4

A relay's host is taken at its word: its addresses are asked for, never its MX.
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
from mailcore.security import Level, Proof
from mailcore.transaction import Credentials, Mechanism
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job
from workers.engines.security import NOT_OFFERED, Grounds

MOST_ADDRESSES = 6


async def open_relay_session(
    feed: Feed, job: Job, relay: Relay, *, ehlo_name: str, ports: DeliverPorts
) -> Grounds:
    """Try the relay's addresses in order; raise what the last of them said."""
    plain = Endpoint(
        host=relay.host,
        address="",
        port=relay.port,
        source_address=feed.source.address,
        ehlo_name=ehlo_name,
        tls=TlsMode.NONE,
        credentials=await _credentials(relay, ports=ports),
    )
    reply = SmtpReply.local(451, "4.4.4", f"the relay {relay.host} has no address")
    error: TransportError = ConnectFailed(reply, scope=Scope.SITE, stage="dns")
    for address in (await _addresses(relay.host, ports=ports))[:MOST_ADDRESSES]:
        result = ""
        for way in _ways(replace(plain, address=address), relay, job):
            try:
                connection = await ports.connector.connect(way)
            except TlsFailed as exc:
                result = exc.result.value
                policy = TlsPolicy.OPERATOR.value
                exc.session = SessionInfo(relay.host, address, tls_policy=policy, tls_result=result)
                if relay.tls in (RelayTls.NONE, RelayTls.OPPORTUNISTIC):
                    # This message wants more than the relay must give: the others need not wait.
                    exc.scope = Scope.MESSAGE
                error = exc
            except TransportError as exc:
                error = exc
                break
            else:
                is_clear = not connection.proven.is_encrypted
                is_wanted = relay.tls is RelayTls.OPPORTUNISTIC
                fallback = (result or NOT_OFFERED) if is_clear and is_wanted else ""
                return Grounds(connection, relay.host, fallback, is_relay=True)
    raise error


def _ways(endpoint: Endpoint, relay: Relay, job: Job) -> Sequence[Endpoint]:
    """Return the ways to speak to the relay, the best first."""
    checked = TlsDemand(Level.AUTHENTICATED, TlsPolicy.OPERATOR, Proof.PKIX, (relay.host,))
    demand = checked if relay.verifies else None
    if relay.tls is RelayTls.IMPLICIT:
        return [replace(endpoint, tls=TlsMode.REQUIRED, demand=demand, is_implicit_tls=True)]
    if relay.tls is RelayTls.STARTTLS or job.tls is TlsMode.REQUIRED:
        return [replace(endpoint, tls=TlsMode.REQUIRED, demand=demand)]
    if relay.tls is RelayTls.OPPORTUNISTIC:
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


async def _addresses(host: str, *, ports: DeliverPorts) -> Sequence[str]:
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        answer = await ports.resolver.addresses(host)
    if not answer.addresses and answer.detail:
        reply = SmtpReply.local(451, "4.4.3", f"the relay {host}: {answer.detail}")
        raise ConnectFailed(reply, scope=Scope.SITE, stage="dns")
    return answer.addresses

"""Open a session for a job: which hosts, in which order, as whom, and how encrypted.

Takes    a feed, the job that wants a session
Gives    open_session
Raises   TransportError, as the last host tried has it; its scope says who waits
Follows  RFC 5321 §5.1 (hosts in order: targets.py), RFC 7435 (opportunistic TLS)
"""

from __future__ import annotations

from mailcore.outcome import Scope
from mailcore.policy.model import HeloMode, TlsMode
from mailcore.ports import (
    ConnectFailed,
    Connection,
    DnsStatus,
    Endpoint,
    TlsFailed,
    TransportError,
)
from mailcore.reply import SmtpReply
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job
from workers.engines.targets import Target, Targets, note_failure

MOST_ADDRESSES = 6


async def open_session(feed: Feed, job: Job, *, ports: DeliverPorts) -> Connection:
    """Try the site's hosts in order; raise what the last of them said.

    Scope MESSAGE is about the job's domain alone; any wider scope is about the path.
    """
    domain = job.row.recipient.domain
    answer = await ports.resolver.mx(domain)
    if answer.status is not DnsStatus.OK:
        # About this domain alone: the others of the site have answers of their own.
        reply = SmtpReply.local(451, "4.4.3", f"{domain}: {answer.detail or answer.status.value}")
        raise ConnectFailed(reply, scope=Scope.MESSAGE, stage="dns")
    error: TransportError | None = None
    targets = Targets(feed, domain, answer, ports=ports)
    for _ in range(MOST_ADDRESSES):
        target = await targets.next()
        if target is None:
            break
        try:
            connection = await _connect(feed, job, target, ports=ports)
        except TransportError as exc:
            error = exc
            await note_failure(feed, target, exc, ports=ports)
        else:
            await _note_alive(feed, target, connection, ports=ports)
            return connection
    raise error or targets.none_left()


async def _note_alive(
    feed: Feed, target: Target, connection: Connection, *, ports: DeliverPorts
) -> None:
    """Forgive an address that was dead; whoever gives up meanwhile leaves no line open."""
    if target.failures:
        try:
            await ports.hosts.note_alive(feed.source.address, target.address)
        except BaseException:
            await connection.close()
            raise


async def _connect(feed: Feed, job: Job, target: Target, *, ports: DeliverPorts) -> Connection:
    host, address, tls = target.host, target.address, job.tls
    if tls is TlsMode.OPPORTUNISTIC and target.is_tls_broken:
        tls = TlsMode.NONE
    endpoint = Endpoint(
        host=host,
        address=address,
        port=ports.smtp_port,
        source_address=feed.source.address,
        ehlo_name=_ehlo_name(feed, job),
        tls=tls,
    )
    try:
        return await ports.connector.connect(endpoint)
    except TlsFailed:
        if tls is not TlsMode.OPPORTUNISTIC:
            raise
        # Mail goes out in clear rather than not at all; RFC 7435 calls it opportunistic security.
        await ports.hosts.note_broken_tls(host)
        plain = Endpoint(
            host, address, ports.smtp_port, feed.source.address, endpoint.ehlo_name, TlsMode.NONE
        )
        return await ports.connector.connect(plain)


def _ehlo_name(feed: Feed, job: Job) -> str:
    match feed.strategy.helo:
        case HeloMode.FROM_DOMAIN:
            return job.domain
        case HeloMode.IP:
            address = feed.source.address
            return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        case _:
            # The PTR name is kept on the source: what DNS says of an address behind NAT is no
            # name to greet with. A live start shows what DNS says.
            return feed.source.ehlo_name

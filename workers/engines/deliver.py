"""Send what a feed holds over one connection slot, from connect to close.

Takes    a feed, a slot of its path, and who is told what happened (`Told`)
Gives    serve (one connection's life), open_session
Raises   nothing: a line that fails becomes outcomes, here and nowhere else (style.md rule 2)
Follows  RFC 5321 §4.5.4 and §5.1 (hosts in order), RFC 2920 (what may be pipelined)

The next transaction begins behind the final dot of the one before it: its commands travel while
the server still works on the content. Two are under way at most, replies come in order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from mailcore.outcome import Outcome, Scope, SessionInfo, Verdict
from mailcore.policy.model import HeloMode, TlsMode
from mailcore.ports import (
    ConnectFailed,
    Connection,
    DnsStatus,
    Endpoint,
    RecipientReply,
    StoreUnavailable,
    TlsFailed,
    TransportError,
    WireTransaction,
    Withheld,
)
from mailcore.reply import SmtpReply
from mailcore.routing.site import plan_hosts
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job, put_off
from workers.engines.told import Told

# A session that was idle may have been closed by the peer without our seeing it: such a try says
# nothing about the recipient and is made again at once, this many times.
STALE_TRIES = 2
MOST_ADDRESSES = 6
# Lease or journal failed us: trying again at once would only spin.
WITHHELD_S = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Flight:
    """A transaction under way."""

    job: Job
    transaction: WireTransaction
    is_first: bool


async def serve(feed: Feed, *, ports: DeliverPorts, told: Told) -> None:
    """Open a session, send until there is nothing more or the session's share is used, close."""
    connection: Connection | None = None
    while connection is None:
        if not feed.queue:
            return
        job = feed.queue[0]
        try:
            connection = await open_session(feed, job, ports=ports, told=told)
        except TransportError as error:
            told.path_failed(feed, job, error)
            if error.scope is not Scope.MESSAGE:
                return
    told.path_works(feed)
    feed.ready_sessions += 1
    try:
        await _transact_all(feed, connection, ports=ports, told=told)
    finally:
        feed.ready_sessions -= 1
        await connection.close()


async def open_session(feed: Feed, job: Job, *, ports: DeliverPorts, told: Told) -> Connection:
    """Try the site's hosts in order; raise what the last of them said.

    Scope MESSAGE is about the job's domain alone; any wider scope is about the path.
    """
    domain = job.row.recipient.domain
    answer = await ports.resolver.mx(domain)
    if answer.status is not DnsStatus.OK:
        # About this domain alone: the others of the site have answers of their own.
        reply = SmtpReply.local(451, "4.4.3", f"{domain}: {answer.detail or answer.status.value}")
        raise ConnectFailed(reply, scope=Scope.MESSAGE, stage="dns")
    reply = SmtpReply.local(451, "4.4.4", f"no MX host of {domain} has an address")
    error: TransportError = ConnectFailed(reply, scope=Scope.SITE, stage="dns")
    tried = 0
    for host in plan_hosts(answer, ports.draw()):
        found = await ports.resolver.addresses(host.name)
        for address in found.addresses:
            if tried == MOST_ADDRESSES:
                raise error
            tried += 1
            try:
                return await _connect(feed, job, host.name, address, ports=ports, told=told)
            except TransportError as exc:
                error = exc
    raise error


async def _connect(
    feed: Feed, job: Job, host: str, address: str, *, ports: DeliverPorts, told: Told
) -> Connection:
    tls = job.tls
    if tls is TlsMode.OPPORTUNISTIC and told.is_tls_broken(host):
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
        told.note_broken_tls(host)
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
            # The PTR name is kept on the source, where upkeep compares it with DNS.
            return feed.source.ehlo_name


async def _transact_all(
    feed: Feed, connection: Connection, *, ports: DeliverPorts, told: Told
) -> None:
    """Send messages one behind the other until the session or the work ends."""
    most = feed.strategy.messages_per_connection or 1_000_000
    sent = 0
    previous: Flight | None = None
    job: Job | None = None
    clock = ports.clock
    try:
        while True:
            job = None
            if connection.is_usable and sent < most and not feed.closing:
                job = feed.take_nowait(now=clock.monotonic())
                if job is None and previous is None:
                    job = await feed.take(idle_s=ports.limits.idle_s, monotonic=clock.monotonic())
                    if job is not None and _went_stale(connection):
                        _retry_stale(feed, job, told=told)
                        return
            if job is not None and told.is_held(feed, job.row):
                feed.landed(job)
                told.held_back(job.row)
                continue
            if job is not None and not await _fits(feed, job, connection, told=told):
                continue
            if job is not None and _lacks_tls(job, connection):
                _refuse_clear(feed, job, connection, ports=ports, told=told)
                continue
            flight = None
            if job is not None:
                flight = _begin(connection, job, ports=ports, is_first=sent == 0)
                sent += 1
            if previous is not None:
                await _finish(feed, connection, previous, ports=ports, told=told)
            if flight is None:
                if previous is None:
                    return
            else:
                await flight.transaction.content_sent
            previous = flight
    except Exception:
        # A fault nobody foresaw, of ours: no row may stay without an outcome because of it.
        log.exception("a session broke on our side")
        for each in (previous.job if previous is not None else None, job):
            if each is not None and each.is_on_the_wire:
                _give_up(feed, each, connection, ports=ports, told=told)


async def _fits(feed: Feed, job: Job, connection: Connection, *, told: Told) -> bool:
    """Whether the server takes the content as it is, or as it is after conversion."""
    if connection.takes_8bit or not job.wire.needs_8bit:
        return True
    return await told.made_7bit(feed, job)


def _lacks_tls(job: Job, connection: Connection) -> bool:
    return job.tls is TlsMode.REQUIRED and not connection.session.tls_version


def _give_up(
    feed: Feed, job: Job, connection: Connection, *, ports: DeliverPorts, told: Told
) -> None:
    """End an attempt that broke on our side; no dot is sent for it from here on."""
    feed.landed(job)
    row, now = job.row, ports.clock.now()
    reply = SmtpReply.local(451, "4.3.0", "an error of ours ended the attempt; it is in the log")
    outcome = put_off(
        feed,
        row,
        scope=Scope.MESSAGE,
        reply=reply,
        stage="dot" if job.is_dotted else "mail",
        now=now,
        session=connection.session,
    )
    if job.is_dotted:
        outcome = replace(outcome, verdict=Verdict.UNKNOWN, after_dot=True)
    told.outcome(outcome, row)


def _refuse_clear(
    feed: Feed, job: Job, connection: Connection, *, ports: DeliverPorts, told: Told
) -> None:
    """Defer a message that must not travel in clear: this session was opened for others."""
    feed.landed(job)
    outcome = put_off(
        feed,
        job.row,
        scope=Scope.MESSAGE,
        reply=SmtpReply.local(451, "4.7.10", "TLS is required and this session has none"),
        stage="starttls",
        now=ports.clock.now(),
        session=connection.session,
    )
    told.outcome(outcome, job.row)


def _begin(connection: Connection, job: Job, *, ports: DeliverPorts, is_first: bool) -> Flight:
    row = job.row

    def before_dot() -> bool:
        if not job.is_on_the_wire or not ports.lease.holds(job.incarnation):
            return False
        try:
            ports.journal.dot(row.id, row.claim_no)
        except StoreUnavailable as exc:
            # What is not on disk before the dot could be sent twice after a crash.
            log.error("dot withheld", extra={"store": exc.store, "reason": exc.reason})
            return False
        job.is_dotted = True
        return True

    return Flight(job, connection.begin(job.wire, before_dot=before_dot), is_first)


async def _finish(
    feed: Feed, connection: Connection, flight: Flight, *, ports: DeliverPorts, told: Told
) -> None:
    """Await a transaction's replies and say what they mean."""
    row = flight.job.row
    try:
        (verdict,) = await flight.transaction.replies
    except Withheld:
        feed.landed(flight.job)
        told.returned(row, delay_s=WITHHELD_S)
    except TransportError as error:
        _line_lost(feed, connection, flight, error, ports=ports, told=told)
    else:
        feed.landed(flight.job)
        told.outcome(_of_reply(feed, connection, flight, verdict, ports), row)


def _of_reply(
    feed: Feed,
    connection: Connection,
    flight: Flight,
    verdict: RecipientReply,
    ports: DeliverPorts,
) -> Outcome:
    reply = verdict.reply
    is_delivered = reply.is_positive and verdict.stage == "dot"
    if is_delivered:
        word = Verdict.DELIVERED
    elif reply.is_permanent:
        word = Verdict.BOUNCED
    else:
        word = Verdict.DEFERRED
    return _outcome(feed, flight, word, verdict.scope, reply, verdict.stage, connection, ports)


def _line_lost(
    feed: Feed,
    connection: Connection,
    flight: Flight,
    error: TransportError,
    *,
    ports: DeliverPorts,
    told: Told,
) -> None:
    """A session broke under a transaction: unknown, tried again at once, or deferred."""
    decided = error.decided[0] if error.decided else None
    if decided is not None:
        # The recipient had its own word before the line broke.
        feed.landed(flight.job)
        told.outcome(_of_reply(feed, connection, flight, decided, ports), flight.job.row)
    elif error.after_dot:
        feed.landed(flight.job)
        outcome = _outcome(
            feed, flight, Verdict.UNKNOWN, error.scope, error.reply, error.stage, connection, ports
        )
        told.outcome(outcome, flight.job.row)
    elif not flight.is_first and flight.job.tries < STALE_TRIES:
        _retry_stale(feed, flight.job, told=told)
    else:
        feed.landed(flight.job)
        outcome = _outcome(
            feed, flight, Verdict.DEFERRED, error.scope, error.reply, error.stage, connection, ports
        )
        told.outcome(outcome, flight.job.row)


def _went_stale(connection: Connection) -> bool:
    """Whether the peer ended the session while it was idle."""
    return not connection.is_usable


def _retry_stale(feed: Feed, job: Job, *, told: Told) -> None:
    feed.landed(job)
    job.tries += 1
    if feed.closing:
        told.returned(job.row, delay_s=0.0)
    else:
        feed.put_back(job)


def _outcome(
    feed: Feed,
    flight: Flight,
    verdict: Verdict,
    scope: Scope,
    reply: SmtpReply,
    stage: str,
    connection: Connection | None,
    ports: DeliverPorts,
) -> Outcome:
    row = flight.job.row
    return Outcome(
        row_id=row.id,
        claim_no=row.claim_no,
        verdict=verdict,
        scope=scope,
        reply=reply,
        stage=stage,
        session=connection.session if connection is not None else SessionInfo(),
        dialogue_ms=flight.transaction.dialogue_ms,
        after_dot=verdict is Verdict.UNKNOWN,
        source_id=feed.source.id,
        occurred_ms=int(ports.clock.now().timestamp() * 1000),
    )

"""Opening SMTP sessions: connect, greeting, EHLO, STARTTLS or TLS before all of it, AUTH.

Gives    SmtpConnector (the port `Connector`), Timeouts
Takes    timeouts, whether to stay on loopback, certificate authorities; an endpoint per session
Raises   ConnectFailed, TimedOut, TlsFailed, Disconnected
Follows  RFC 5321 §3.1, RFC 3207 (STARTTLS; opportunistic as in RFC 7435: the certificate is not
         checked, since without STARTTLS the mail would go in clear). Where an endpoint comes with a
         demand, the server must meet it before anything is said to it under TLS
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import re
import socket
import ssl
from dataclasses import replace

from mailcore.outcome import Scope, TlsResult
from mailcore.policy.words import TlsMode
from mailcore.ports import ConnectFailed, Endpoint, TimedOut, TlsFailed
from mailcore.reply import SmtpReply
from mailcore.security import Proof
from mailio.smtp_protocol import SmtpProtocol
from mailio.smtp_transaction import ChunkingMemory
from mailio.smtp_transaction import Timeouts as Timeouts
from mailio.tls_identity import TlsIdentity, Unproven, unproven

# Linux's IP_BIND_ADDRESS_NO_PORT: choose the port at connect, so that one source address is not
# limited to the 28,000 ephemeral ports in all, but per destination.
_IP_BIND_ADDRESS_NO_PORT = 24
# RFC 6066 §3: a host name, in ASCII (or an address, which is never told).
_SAYABLE = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_OUR_FAULTS = frozenset({errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EACCES, errno.EMFILE})


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _connect_failed(reason: str, *, scope: Scope = Scope.HOST) -> ConnectFailed:
    return ConnectFailed(SmtpReply.local(451, "4.4.1", reason), scope=scope, stage="connect")


class SmtpConnector:
    """Opens sessions; the engine owns them."""

    def __init__(
        self,
        timeouts: Timeouts | None = None,
        *,
        confine_to_loopback: bool = False,
        ca_file: str = "",
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._confine_to_loopback = confine_to_loopback
        self._identity = TlsIdentity(ca_file)
        self._chunking = ChunkingMemory()

    def adjust(self, *, connect_s: float) -> None:
        """Take over a node's settings: they hold for the sessions to come."""
        self._timeouts = replace(self._timeouts, connect_s=connect_s)

    async def connect(self, endpoint: Endpoint) -> SmtpProtocol:
        """Return a session ready for MAIL, or raise TransportError."""
        if self._confine_to_loopback and not _is_loopback(endpoint.address):
            raise _connect_failed(f"lab mode: {endpoint.address} is not on loopback")
        loop = asyncio.get_running_loop()
        protocol = SmtpProtocol(endpoint, self._timeouts, loop, self._chunking)
        sock = await self._connected_socket(endpoint, loop)
        try:
            transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        except BaseException as exc:
            sock.close()
            if isinstance(exc, OSError):
                raise _connect_failed(f"{endpoint.address}: {exc.strerror or exc}") from exc
            raise
        try:
            if not await protocol.opened:
                await self._start_tls(protocol, transport, endpoint, loop)
                await protocol.opened
        except BaseException:
            # Cancelled or failed: either way nobody will use the line.
            protocol.abandon("the session was given up while it was opened")
            raise
        return protocol

    async def _connected_socket(
        self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:
            raise _connect_failed(f"no socket: {exc.strerror}", scope=Scope.SOURCE) from exc
        try:
            sock.setblocking(False)
            if endpoint.source_address:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((endpoint.source_address, 0))
            async with asyncio.timeout(self._timeouts.connect_s) as deadline:
                await loop.sock_connect(sock, (endpoint.address, endpoint.port))
        except OSError as exc:
            sock.close()
            if isinstance(exc, TimeoutError) and deadline.expired():
                reply = SmtpReply.local(451, "4.4.1", f"{endpoint.address}: connect timed out")
                raise TimedOut(reply, scope=Scope.HOST, stage="connect") from exc
            scope = Scope.SOURCE if exc.errno in _OUR_FAULTS else Scope.HOST
            reason = exc.strerror or str(exc)
            source = f" from {endpoint.source_address}" if scope is Scope.SOURCE else ""
            raise _connect_failed(f"{endpoint.address}{source}: {reason}", scope=scope) from exc
        except BaseException:
            sock.close()
            raise
        return sock

    async def _start_tls(
        self,
        protocol: SmtpProtocol,
        transport: asyncio.Transport,
        endpoint: Endpoint,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        demand, result = endpoint.demand, TlsResult.VALIDATION_FAILURE
        is_opportunistic = endpoint.tls is TlsMode.OPPORTUNISTIC
        encrypted: asyncio.Transport | None = None
        protocol.tls_begins()
        try:
            async with asyncio.timeout(self._timeouts.tls_s):
                encrypted = await loop.start_tls(
                    transport,
                    protocol,
                    self._identity.context_for(demand, is_opportunistic=is_opportunistic),
                    server_hostname=_asked_name(endpoint) or None,
                    ssl_handshake_timeout=self._timeouts.tls_s,
                )
            if encrypted is not None:
                session = encrypted.get_extra_info("ssl_object")
                protocol.tls_established(encrypted, self._identity.check(session, demand))
                return
            reason = "the connection was lost in the TLS handshake"
        except TimeoutError:
            reason = "the TLS handshake timed out"
        except ssl.SSLCertVerificationError as exc:
            found = unproven(exc)
            result, reason = found.result, found.reason
        except Unproven as exc:
            result, reason = exc.result, exc.reason
            if encrypted is not None:
                encrypted.abort()
        except (OSError, ssl.SSLError, ValueError) as exc:
            reason = f"the TLS handshake failed: {exc}"
        reply = SmtpReply.local(451, "4.7.5", reason)
        raise TlsFailed(reply, scope=Scope.HOST, stage="starttls", result=result)


def _asked_name(endpoint: Endpoint) -> str:
    """Return the name to ask the server for: with DANE the TLSA base domain (RFC 7672 §8.1).

    "" for what DNS has and no server can be called by: such a name cannot even be said.
    """
    demand, name = endpoint.demand, endpoint.host
    if demand is not None and demand.proof is Proof.TLSA:
        name = demand.names[0]
    return name if _SAYABLE.fullmatch(name) else ""

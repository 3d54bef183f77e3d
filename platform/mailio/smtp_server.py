"""Listen for clients that submit mail.

Gives    SmtpServer: start, stop, reload_tls; postmaster_of
Takes    settings, what sessions work with; a running loop
Raises   OSError: an address that cannot be listened on, a certificate that cannot be read
"""

from __future__ import annotations

import asyncio
import logging
import ssl

from mailcore.address import ForwardPath
from mailcore.errors import AddressError
from mailcore.policy.model import Node
from mailcore.reception import Gauge, Limits
from mailio.settings import SettingsError
from mailio.smtp_session import Desk, Patience, SmtpSession
from mailio.smtp_tls_listener import TlsListener
from mailio.smtpd_settings import SmtpdSettings

log = logging.getLogger(__name__)
_BACKLOG = 1024


class SmtpServer:
    """All sessions of a process."""

    def __init__(
        self,
        settings: SmtpdSettings,
        desk: Desk,
        *,
        patience: Patience | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings
        self.host = settings.host
        self.desk = desk
        self.patience = patience or Patience()
        self.limits = limits or Limits(message_bytes=settings.message_bytes)
        self.gauge = Gauge(settings.memory_bytes, settings.memory_bytes // 2)
        self.tls = _tls_context(settings)
        self.sessions: set[SmtpSession] = set()
        self._is_stopping = False
        self._listeners: list[asyncio.Server | TlsListener] = []
        self._all_gone = asyncio.Event()

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        try:
            for host, port in self._settings.listen:
                self._listeners.append(
                    await loop.create_server(
                        lambda: SmtpSession(self), host, port, backlog=_BACKLOG
                    )
                )
            for host, port in self._settings.tls_listen:
                secure = self._tls_listener()
                secure.start(host, port, backlog=_BACKLOG)
                self._listeners.append(secure)
        except OSError:
            for listener in self._listeners:
                listener.close()
            raise

    def _tls_listener(self) -> TlsListener:
        if self.tls is None:
            raise SettingsError("SMTPD_TLS_LISTEN needs SMTPD_TLS_CERT and SMTPD_TLS_KEY")
        return TlsListener(
            lambda client: SmtpSession(self, tls_client=client),
            door=self.desk.door,
            context=self.tls,
            handshake_s=self.patience.tls_s,
        )

    @property
    def ports(self) -> list[int]:
        """Where it listens, in the order of the settings."""
        return [one.sockets[0].getsockname()[1] for one in self._listeners]

    def reload_tls(self) -> None:
        """Read the certificate again, for handshakes from now on; OSError if it cannot be."""
        if self.tls is not None:
            _load_certificate(self.tls, self._settings)

    async def stop(self, *, timeout_s: float) -> None:
        """Take no more sessions, finish the transactions under way, end."""
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()
        for session in list(self.sessions):
            session.close_down()
        self._settle_gone()
        try:
            await asyncio.wait_for(self._all_gone.wait(), timeout_s)
        except TimeoutError:
            log.warning("sessions cut off", extra={"sessions": len(self.sessions)})
            for session in list(self.sessions):
                session.cut_off()
        await self.desk.batches.close()

    def came(self, session: SmtpSession) -> None:
        """A session has begun."""
        self.sessions.add(session)
        if self._is_stopping:
            session.close_down()

    def gone(self, session: SmtpSession) -> None:
        """A session has ended."""
        self.sessions.discard(session)
        self._settle_gone()

    def _settle_gone(self) -> None:
        if self._is_stopping and not self.sessions:
            self._all_gone.set()


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


def _tls_context(settings: SmtpdSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings)
    return context


def _load_certificate(context: ssl.SSLContext, settings: SmtpdSettings) -> None:
    if settings.tls_cert is not None:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)


def postmaster_of(node: Node | None, host: str) -> ForwardPath:
    """Return who reads what comes for `postmaster` (RFC 5321 §4.5.1)."""
    if node is not None and node.admin_email:
        try:
            return ForwardPath.parse(node.admin_email)
        except AddressError as exc:
            log.error("the node's administrator address is none", extra={"reason": str(exc)})
    return ForwardPath("postmaster", host)

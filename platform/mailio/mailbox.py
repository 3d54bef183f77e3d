"""Read mailboxes: connect, secure, log in.

Gives    Pop3Reader, which implements mailcore.ports.MailboxReader
Takes    a Mailbox of the policy and its password
Raises   MailboxError, naming host and reason, never the password
Follows  RFC 1939, RFC 2595, RFC 8314 §3.3 (TLS from the start)

In the lab nothing but loopback is connected to, and certificates are not checked there: they are
made afresh at each start.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl

from mailcore.policy.model import Mailbox
from mailcore.policy.words import MailboxProtocol, MailboxTls
from mailcore.ports import MailboxError
from mailio.pop3 import Pop3Session, wrapped

CONNECT_S = 15.0
ANSWER_S = 60.0


class Pop3Reader:
    """Opens POP3 sessions. Thread-safe; each session belongs to one thread."""

    def __init__(
        self,
        *,
        confine_to_loopback: bool,
        connect_s: float = CONNECT_S,
        answer_s: float = ANSWER_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._confined = confine_to_loopback
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._tls = tls if tls is not None else _context(verify=not confine_to_loopback)

    def open(self, mailbox: Mailbox, password: bytes) -> Pop3Session:
        """Return the mailbox, open."""
        if mailbox.protocol is not MailboxProtocol.POP3:
            raise MailboxError(
                f"{mailbox.protocol.value.upper()} mailboxes are not read by this release: set POP3"
            )
        line = self._connect(mailbox)
        if mailbox.tls is MailboxTls.TLS:
            line = wrapped(line, self._tls, mailbox.host)
        session = Pop3Session(line, host=mailbox.host, answer_s=self._answer_s)
        try:
            session.greet()
            if mailbox.tls is MailboxTls.STARTTLS:
                session.stls(self._tls)
            session.login(mailbox.login, password)
        except BaseException:
            session.abort()
            raise
        return session

    def _connect(self, mailbox: Mailbox) -> socket.socket:
        where = f"{mailbox.host}:{mailbox.port}"
        try:
            found = socket.getaddrinfo(mailbox.host, mailbox.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise MailboxError(f"{where}: the name is not known: {reason}") from exc
        allowed = [each for each in found if not self._confined or _is_loopback(str(each[4][0]))]
        if not allowed:
            raise MailboxError(f"{where}: in the lab only loopback is connected to")
        reason = ""
        for family, kind, protocol, _, address in allowed:
            line = socket.socket(family, kind, protocol)
            try:
                line.settimeout(self._connect_s)
                line.connect(address)
            except OSError as exc:
                line.close()
                reason = exc.strerror or str(exc)
            else:
                return line
        raise MailboxError(f"{where}: {reason}")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def _context(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

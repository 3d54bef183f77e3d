"""A mail server that stands for an installation's relay, on a free port of loopback.

Gives    taking(): a context with what it took; Taken
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


@dataclass
class Taken:
    """What came to the relay, and how."""

    port: int = 0
    contents: list[bytes] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    helos: list[str] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    with_tls: list[bool] = field(default_factory=list)
    refusal: str = ""

    @property
    def messages(self) -> list[EmailMessage]:
        """Return the messages, read."""
        return [message_from_bytes(one, policy=policy.default) for one in self.contents]

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        """Refuse as told."""
        if self.refusal:
            return self.refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep the message."""
        self.contents.append(bytes(envelope.content))
        self.envelopes.append((envelope.mail_from, list(envelope.rcpt_tos)))
        self.helos.append(session.host_name)
        self.with_tls.append(session.ssl is not None)
        return "250 2.0.0 taken"

    def authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        """Let the one user in."""
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"open sesame")


@contextlib.contextmanager
def taking(*, refusal: str = "", **options: Any) -> Iterator[Taken]:
    """Take mail until the block ends; `options` are aiosmtpd's."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    taken = Taken(port=port, refusal=refusal)
    if options.get("auth_required"):
        options["authenticator"] = taken.authenticate
    controller = Controller(taken, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield taken
    finally:
        controller.stop()

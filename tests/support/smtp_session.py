"""Sessions of the SMTP client with a scripted server, and messages to send on them.

Gives    session, endpoint, message, transact, codes, yes; PATIENT and hasty timeouts; BODY, GROUP
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from mailcore.outcome import Scope
from mailcore.policy.words import TlsMode
from mailcore.ports import (
    Connection,
    Connector,
    Endpoint,
    RecipientReply,
    WireMessage,
)
from mailio.smtp import SmtpConnector, Timeouts
from tests.support.smtp_peer import Heard, Script, serving

BODY = b"Subject: hello\r\n\r\n.leading dot\r\n..two\r\nlast\r\n"
GROUP = b"MAIL FROM:<from@example.com> SIZE=%d\r\nRCPT TO:<a@peer.test>\r\nDATA\r\n" % len(BODY)
PATIENT = Timeouts(quit_s=0.05)


def hasty(step: str) -> Timeouts:
    """Return timeouts that give one step no time to speak of, and all others plenty."""
    return replace(PATIENT, **{f"{step}_s": 0.1})


def endpoint(heard: Heard, tls: TlsMode = TlsMode.OPPORTUNISTIC, **changes: Any) -> Endpoint:
    """Return where the peer listens."""
    values: dict[str, Any] = {
        "host": "mx.test",
        "address": "127.0.0.1",
        "port": heard.port,
        "source_address": "127.0.0.1",
        "ehlo_name": "out.example.com",
        "tls": tls,
    }
    return Endpoint(**(values | changes))


@asynccontextmanager
async def session(
    script: Script, timeouts: Timeouts = PATIENT, tls: TlsMode = TlsMode.OPPORTUNISTIC
) -> AsyncIterator[tuple[Connection, Heard]]:
    """Open a session to a server that follows the script."""
    async with serving(script) as heard:
        connector: Connector = SmtpConnector(timeouts, confine_to_loopback=True)
        connection = await connector.connect(endpoint(heard, tls))
        try:
            yield connection, heard
        finally:
            await connection.close()


def message(*recipients: str, content: bytes = BODY, **changes: Any) -> WireMessage:
    """Return a message to these recipients."""
    return WireMessage("from@example.com", recipients or ("a@peer.test",), content, **changes)


def yes(_: Sequence[int]) -> bool:
    """The claim is ours."""
    return True


def no(_: Sequence[int]) -> bool:
    """The claim is lost."""
    return False


def codes(replies: tuple[RecipientReply, ...]) -> list[tuple[int, str, Scope]]:
    """Return what decided over each recipient."""
    return [(reply.reply.code, reply.stage, reply.scope) for reply in replies]


async def transact(
    connection: Connection, wire: WireMessage, before_dot: Callable[[Sequence[int]], bool] = yes
) -> list[tuple[int, str, Scope]]:
    """Send one message and return what decided over each recipient."""
    return codes(await connection.begin(wire, before_dot=before_dot).replies)

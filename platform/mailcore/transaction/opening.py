"""The opening of a session: greeting, EHLO or HELO, STARTTLS, AUTH.

Gives    Opening, and Say: a command with the stage its answer will have
Takes    replies, the end of the TLS handshake
Raises   nothing: whatever keeps a session from being ready is a Failed step
Follows  RFC 5321 §3.1-3.2, §4.1.1.1 (HELO for servers of old), RFC 3207 (STARTTLS), RFC 4954 (AUTH)

What is refused here is about us, never about a recipient: the host waits, or for wrong
credentials the source, since every host of the relay would say the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailcore.outcome import Scope
from mailcore.reply import SmtpReply
from mailcore.transaction.auth import Credentials, Exchange, Redaction, choose_mechanisms
from mailcore.transaction.extensions import Extensions
from mailcore.transaction.faults import garbled
from mailcore.transaction.message import Stage
from mailcore.transaction.replies import reply_of
from mailcore.transaction.steps import Failed, FaultKind, Ready, StartTls, Write, WriteSecret

# The server does not speak this mechanism, or not here: another one may do (RFC 4954 §6).
_NOT_THIS_ONE = frozenset({500, 501, 502, 503, 504, 534, 538})
_WRONG_CREDENTIALS = frozenset({535})


@dataclass(frozen=True, slots=True)
class Say:
    """Write a command and await the answer to it."""

    stage: Stage
    step: Write


Move = Say | StartTls | Ready | Failed


class Opening:
    """What has been agreed with the server so far."""

    __slots__ = (
        "_credentials",
        "_ehlo_name",
        "_exchange",
        "_redaction",
        "_requires_tls",
        "_untried",
        "_wants_tls",
        "extensions",
        "is_tls",
    )

    def __init__(
        self,
        ehlo_name: str,
        *,
        wants_tls: bool,
        requires_tls: bool,
        credentials: Credentials | None,
    ) -> None:
        self._ehlo_name = ehlo_name.encode("ascii", "replace")
        self._wants_tls = wants_tls or requires_tls
        self._requires_tls = requires_tls
        self._credentials = credentials
        self._exchange: Exchange | None = None
        self._untried: list[Exchange] = []
        self.extensions = Extensions()
        self.is_tls = False
        # From the first AUTH on: before it nothing was said that anybody could repeat.
        self._redaction: Redaction | None = None

    def secured(self) -> Move:
        """The handshake succeeded: forget what was said in clear and greet again."""
        self.is_tls = True
        self.extensions = Extensions()
        return self._hello(Stage.EHLO)

    def take(self, stage: Stage, code: int, lines: tuple[bytes, ...]) -> Move:
        """Take the answer to one of the opening's commands; return what follows."""
        is_positive = code // 100 == 2
        if code // 100 == 3 and not (stage is Stage.AUTH and code == 334):
            return garbled(f"an answer of {code} to {stage.value.upper()}", stage, is_ready=False)
        if stage is Stage.STARTTLS:
            return self._take_starttls(code, lines)
        if stage is Stage.AUTH:
            return self._take_auth(code, lines)
        if stage is Stage.BANNER and is_positive:
            return self._hello(Stage.EHLO)
        if stage is Stage.EHLO and code >= 500 and not self.is_tls:
            return self._hello(Stage.HELO)
        if not is_positive:
            return Failed(FaultKind.REFUSED, reply_of(code, lines), stage.told, Scope.HOST)
        if code != 250:
            # A second greeting, as likely as not: all that follows would be out of step.
            return garbled(f"an answer of {code} to {stage.value.upper()}", stage, is_ready=False)
        if stage is Stage.EHLO:
            self.extensions = Extensions.parse(lines)
        return self._greeted()

    def quotable(self, code: int, lines: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return what a server said, in a form that may be shown."""
        if self._redaction is None or code == 334:
            # A challenge is answered and shown to nobody.
            return lines
        return tuple(map(self._redaction.clean, lines))

    def quotable_fault(self, fault: str) -> str:
        """Return what was wrong with the server's octets, without those: they may be ours."""
        return fault if self._redaction is None else fault.partition(":")[0]

    def _hello(self, stage: Stage) -> Say:
        verb = stage.value.upper().encode("ascii")
        return Say(stage, Write(verb + b" " + self._ehlo_name + b"\r\n"))

    # -- STARTTLS

    def _greeted(self) -> Move:
        if self.is_tls or not self._wants_tls:
            return self._identify()
        if self.extensions.starttls:
            return Say(Stage.STARTTLS, Write(b"STARTTLS\r\n"))
        if self._requires_tls:
            reply = SmtpReply.local(451, "4.7.4", "TLS is required and not offered")
            return Failed(FaultKind.TLS, reply, "starttls", Scope.HOST)
        return self._identify()

    def _take_starttls(self, code: int, lines: tuple[bytes, ...]) -> Move:
        if code == 220:
            return StartTls()
        if self._requires_tls:
            return Failed(FaultKind.TLS, reply_of(code, lines), "starttls", Scope.HOST)
        return self._identify()

    # -- AUTH

    def _identify(self) -> Move:
        credentials = self._credentials
        if credentials is None:
            return Ready()
        if not self.is_tls and not credentials.allows_clear:
            text = "the relay has no TLS session with us, and credentials do not travel in clear"
            return _unidentified(SmtpReply.local(451, "4.7.11", text))
        self._redaction = Redaction(credentials)
        offered = self.extensions.auth
        self._untried = [
            Exchange(each, credentials)
            for each in choose_mechanisms(credentials, offered, is_tls=self.is_tls)
        ]
        names = " ".join(sorted(offered)) or "none"
        return self._try_next(
            SmtpReply.local(451, "4.7.4", f"the relay offers no AUTH mechanism for us: {names}")
        )

    def _try_next(self, last: SmtpReply) -> Move:
        if not self._untried:
            return _unidentified(last)
        self._exchange = self._untried.pop(0)
        line = self._exchange.command()
        # Its verb and mechanism are no secret.
        return self._say(line, hidden=b"".join(line.split()[2:]))

    def _say(self, line: bytes, *, hidden: bytes) -> Say:
        if self._redaction is not None:
            self._redaction.hide(hidden)
        return Say(Stage.AUTH, WriteSecret(line))

    def _take_auth(self, code: int, lines: tuple[bytes, ...]) -> Move:
        stage = Stage.AUTH
        exchange = self._exchange
        if exchange is None:
            return garbled("an answer to no AUTH", stage, is_ready=False)
        if code // 100 == 2 and not exchange.is_cancelled:
            return Ready()
        if code // 100 <= 3 and exchange.is_cancelled:
            return garbled(f"an answer of {code} to a cancelled AUTH", stage, is_ready=False)
        if code == 334:
            line = exchange.answer(lines[0].strip())
            return self._say(line, hidden=b"" if exchange.is_cancelled else line)
        if exchange.is_cancelled:
            text = f"the relay asks what {exchange.mechanism.value} does not ask for"
            return self._try_next(SmtpReply.local(451, "4.5.0", text))
        reply = reply_of(code, lines)
        return self._try_next(reply) if code in _NOT_THIS_ONE else _unidentified(reply)


def _unidentified(reply: SmtpReply) -> Failed:
    scope = Scope.SOURCE if reply.code in _WRONG_CREDENTIALS else Scope.HOST
    return Failed(FaultKind.REFUSED, reply, Stage.AUTH.value, scope)

"""One SMTP session of a receiver: commands in, replies out.

Gives    Session, an asyncio Protocol
Takes    a House: manner, script, memory and tally of the MX host that was called
Raises   nothing: whatever the client sends is answered, and counted
Follows  RFC 5321, RFC 2920 (PIPELINING), RFC 3207 (STARTTLS), RFC 3030 (CHUNKING), RFC 3461 (DSN)

A fault of the client is answered as such before script or manner are asked. State follows the reply
in the moment it is written, so that a scripted reply is always the one that counts.
"""

from collections.abc import Callable

from lab.commands import Refused, parse_line, parse_mail, parse_rcpt
from lab.content import unstuff
from lab.line import Line
from lab.manner import Defect, Extension, TlsManner
from lab.recorder import Envelope
from lab.script import Stage, Step, plain

_LAST_IN_GROUP = frozenset({"EHLO", "HELO", "DATA", "NOOP", "VRFY", "EXPN", "STARTTLS"})
_TOO_FAST = "421 4.7.0 Too many messages from your address, slow down"


class Session(Line):
    """The dialogue; `Line` below it owns the transport, the buffer and the waiting."""

    _helo: str | None = None
    _offered: frozenset[Extension] = frozenset()
    _envelope: Envelope | None = None
    _chunks: bytearray | None = None  # content so far when it comes by BDAT
    _chunk_is_last = False
    _chunk_refusal: str | None = None

    # -- the start and the end -----------------------------------------------------------------

    def greet(self) -> None:
        """Say the greeting, or that there are too many."""
        limit = self.house.manner.max_connections
        if limit is not None and self.house.open_connections > limit:
            self._complain(Stage.CONNECT, "421 4.7.0 Too many connections")
            return
        if self.house.is_blocked(self.peer_address):
            self._complain(Stage.CONNECT, _TOO_FAST)
            return
        reply = f"220 {self.house.host.name} ESMTP {self.house.provider.title}"
        self._answer(Stage.CONNECT, reply, key=self.key, said=self._greeted)

    def _greeted(self, step: Step) -> None:
        self.is_greeted = True
        self.recorder.session_reply(Stage.CONNECT, step)
        if not 200 <= step.code < 400:
            self.close()

    def ended(self) -> None:
        """Count what the end of the connection left open."""
        partial = self.unread_content or bytes(self._chunks or b"")
        self.recorder.ended(self._envelope, partial, is_clean=self.is_clean)

    def secured(self) -> None:
        """Start anew under TLS: nothing said in clear counts (RFC 3207 §4.2)."""
        self._helo = None
        self._reset()

    def _reset(self) -> None:
        self._envelope = None
        self._chunks = None

    # -- answering -----------------------------------------------------------------------------

    def _complain(self, stage: Stage, reply: str) -> None:
        """Answer a fault of the client, or a limit, whatever the script."""
        step = plain(reply)
        self.recorder.session_reply(stage, step)
        self.say(step)

    def _answer(
        self, stage: Stage, reply: str, *, key: str, said: Callable[[Step], None] | None = None
    ) -> None:
        """Answer as script or manner want it, else plainly."""
        step = self.house.answer_at(
            stage,
            key=key,
            cursor=self.cursor,
            connection=self.recorder.connection,
            transaction=self.recorder.transactions,
        )
        if step is None:
            step = plain(reply)
        elif step.reply is None and not step.is_silent:
            step = Step(reply, step.delay_s, step.closing)
        self.say(step, said)

    # -- commands ------------------------------------------------------------------------------

    def command(self, line: bytes) -> None:
        """Carry out one command line."""
        try:
            verb, argument = parse_line(line)
            # The octets of a chunk follow their command at once (RFC 3030 §2).
            may_go_on = verb == "BDAT" or Extension.PIPELINING in self.house.manner.extensions
            if self.has_more and (verb in _LAST_IN_GROUP or not may_go_on):
                talked = Defect.TLS_INJECTION if verb == "STARTTLS" else Defect.TALKED_EARLY
                self.recorder.defect(talked)
            handler = _HANDLERS.get(verb)
            if handler is None:
                raise Refused("500 5.5.1 Command not known")
            handler(self, argument)
        except Refused as refused:
            self._complain(_STAGES.get(line[:4].upper(), Stage.HELO), refused.reply)

    def _on_ehlo(self, argument: str) -> None:
        lines = self.house.ehlo_lines(is_tls=self.is_tls)
        self._hello(argument, lines, self.house.manner.extensions)

    def _on_helo(self, argument: str) -> None:
        self._hello(argument, [], frozenset())

    def _hello(self, name: str, lines: list[str], offered: frozenset[Extension]) -> None:
        if not name.strip():
            raise Refused("501 5.5.4 Say your name")
        rows = [f"{self.house.host.name} greets {self.peer_address}", *lines]
        reply = "\n".join([f"250-{row}" for row in rows[:-1]] + [f"250 {rows[-1]}"])

        def said(step: Step) -> None:
            self.recorder.session_reply(Stage.HELO, step)
            if 200 <= step.code < 300:
                self._helo = name
                self._offered = offered
                self._reset()

        self._answer(Stage.HELO, reply, key=self.key, said=said)

    def _on_starttls(self, argument: str) -> None:
        if not self.house.offers_tls():
            raise Refused("502 5.5.1 STARTTLS is not offered")
        if argument:
            raise Refused("501 5.5.4 STARTTLS takes no argument")
        if self.is_tls:
            raise Refused("503 5.5.1 TLS is already on")

        def said(step: Step) -> None:
            self.recorder.session_reply(Stage.STARTTLS, step)
            if step.code == 220:
                self.start_tls()

        self._answer(Stage.STARTTLS, "220 2.0.0 Go ahead", key=self.key, said=said)

    def _on_mail(self, argument: str) -> None:
        manner = self.house.manner
        if self._helo is None:
            raise Refused("503 5.5.1 Say EHLO first")
        if manner.tls is TlsManner.REQUIRED and not self.is_tls:
            raise Refused("530 5.7.0 Say STARTTLS first")
        if self._envelope is not None:
            raise Refused("503 5.5.1 A transaction is under way")
        limit = manner.max_messages_per_connection
        if limit is not None and self.recorder.transactions >= limit:
            raise Refused("421 4.7.0 Too many messages in this connection")
        mail = parse_mail(argument, self._offered, max_size_bytes=manner.max_size_bytes)
        throttle = manner.throttle
        if throttle is not None and not self.house.takes_from(self.peer_address, throttle):
            raise Refused(_TOO_FAST)

        def said(step: Step) -> None:
            self.recorder.session_reply(Stage.MAIL, step)
            if 200 <= step.code < 300:
                self._envelope = Envelope(mail)

        self._answer(Stage.MAIL, "250 2.1.0 Sender ok", key=mail.reverse_path, said=said)

    def _on_rcpt(self, argument: str) -> None:
        envelope = self._envelope
        if envelope is None or self._chunks is not None:
            raise Refused("503 5.5.1 Say MAIL first")
        mail = envelope.mail
        recipient = parse_rcpt(argument, self._offered, is_utf8=mail.is_utf8)
        path = recipient.forward_path

        def said(step: Step) -> None:
            if 200 <= step.code < 300:
                envelope.recipients.append(recipient)
            else:
                self.recorder.recipient_refused(mail, path, step)

        if not self.house.hosts(recipient.domain):
            self.say(plain("550 5.7.1 No relaying: this domain is not hosted here"), said)
        elif len(envelope.recipients) >= self.house.manner.max_recipients:
            self.say(plain("452 4.5.3 Too many recipients"), said)
        else:
            local_part, _, _ = path.rpartition("@")
            key = f"{local_part}@{recipient.domain}"
            deferral = self.house.deferral(
                network=self.peer_network, reverse_path=mail.reverse_path, recipient=key
            )
            self._answer(Stage.RCPT, deferral or "250 2.1.5 Recipient ok", key=key, said=said)

    def _on_data(self, argument: str) -> None:
        envelope = self._envelope
        if argument:
            raise Refused("501 5.5.4 DATA takes no argument")
        if envelope is None or self._chunks is not None:
            raise Refused("503 5.5.1 Say MAIL first")
        if not envelope.recipients and not self.cursor.has(Stage.DATA):
            raise Refused("554 5.5.1 No valid recipients")

        def said(step: Step) -> None:
            self.recorder.session_reply(Stage.DATA, step)
            if step.code == 354:
                envelope.stage = Stage.DATA
                self.expect_content()

        reply = "354 End with <CRLF>.<CRLF>"
        self._answer(Stage.DATA, reply, key=envelope.mail.reverse_path, said=said)

    def content(self, raw: bytes, *, is_oversize: bool) -> None:
        """Take the content that came after DATA, up to its final dot."""
        if self._envelope is None:
            raise RuntimeError("content outside of a transaction")
        self._finish(self._envelope, unstuff(raw), is_oversize=is_oversize)

    def _finish(self, envelope: Envelope, content: bytes, *, is_oversize: bool) -> None:
        """Answer a whole message."""
        manner = self.house.manner
        envelope.stage = Stage.DOT
        received = self.recorder.examine(content, envelope.mail)
        self.hold_content(content)

        def said(step: Step) -> None:
            self.recorder.answered(envelope, received, step)
            self.hold_content(b"")
            self._reset()

        if is_oversize or len(content) > manner.max_size_bytes:
            self.say(plain(f"552 5.3.4 Message is over {manner.max_size_bytes} bytes"), said)
        elif faults := received.defects & manner.refused_defects:
            self.say(plain(f"550 5.6.0 Malformed content: {_names(faults)}"), said)
        elif not envelope.recipients:
            self.say(plain("554 5.5.1 No valid recipients"), said)
        else:
            reply = f"250 2.0.0 Taken as {self.recorder.connection}-{self.recorder.transactions}"
            self._answer(Stage.DOT, reply, key=received.lab_id, said=said)

    # -- CHUNKING ------------------------------------------------------------------------------

    def _on_bdat(self, argument: str) -> None:
        words = argument.upper().split()
        if Extension.CHUNKING not in self.house.manner.extensions:
            raise Refused("502 5.5.1 CHUNKING is not offered")
        size = words[0] if words else ""
        if not (size.isascii() and size.isdigit()) or words[1:] not in ([], ["LAST"]):
            raise Refused("501 5.5.4 Syntax: BDAT size [LAST]")
        if int(size) > self.house.manner.max_size_bytes:
            self._complain(Stage.DATA, "552 5.3.4 Chunk is over the size limit")
            self.close()  # its octets cannot be told from commands any more
            return
        self._chunk_is_last = bool(words[1:])
        self._chunk_refusal = None
        if self._envelope is None:
            self._chunk_refusal = "503 5.5.1 Say MAIL first"
        elif not self._envelope.recipients:
            self._chunk_refusal = "554 5.5.1 No valid recipients"
        self.expect_chunk(int(size))

    def chunk(self, octets: bytes) -> None:
        """Take one chunk; a refused one has been read all the same (RFC 3030 §3)."""
        if self._chunk_refusal is not None or self._envelope is None:
            self._complain(Stage.DATA, self._chunk_refusal or "503 5.5.1 Say MAIL first")
            return
        self._envelope.stage = Stage.DATA
        self._chunks = (self._chunks or bytearray()) + octets
        if self._chunk_is_last:
            content, self._chunks = bytes(self._chunks), None
            self._finish(self._envelope, content, is_oversize=False)
        elif len(self._chunks) > self.house.manner.max_size_bytes:
            self._reset()
            self._complain(Stage.DATA, "552 5.3.4 Message is too big")
        else:
            self.say(plain(f"250 2.0.0 {len(octets)} octets taken"))

    # -- the rest ------------------------------------------------------------------------------

    def _on_rset(self, argument: str) -> None:
        self._reset()
        self._answer(Stage.RSET, "250 2.0.0 Ok", key=self.key)

    def _on_noop(self, argument: str) -> None:
        self.say(plain("250 2.0.0 Ok"))

    def _on_vrfy(self, argument: str) -> None:
        self.say(plain("252 2.5.0 Send some mail, I will try"))

    def _on_help(self, argument: str) -> None:
        self.say(plain("214 2.0.0 RFC 5321"))

    def _on_quit(self, argument: str) -> None:
        def said(step: Step) -> None:
            self.is_clean = True
            self._reset()
            self.close()

        self._answer(Stage.QUIT, "221 2.0.0 Bye", key=self.key, said=said)

    def _on_unoffered(self, argument: str) -> None:
        raise Refused("502 5.5.1 Command is not offered")


def _names(defects: frozenset[Defect]) -> str:
    return ", ".join(sorted(defect.value for defect in defects))


_STAGES = {b"MAIL": Stage.MAIL, b"RCPT": Stage.RCPT, b"DATA": Stage.DATA, b"BDAT": Stage.DATA}
_HANDLERS: dict[str, Callable[[Session, str], None]] = {
    "EHLO": Session._on_ehlo,
    "HELO": Session._on_helo,
    "STARTTLS": Session._on_starttls,
    "MAIL": Session._on_mail,
    "RCPT": Session._on_rcpt,
    "DATA": Session._on_data,
    "BDAT": Session._on_bdat,
    "RSET": Session._on_rset,
    "NOOP": Session._on_noop,
    "VRFY": Session._on_vrfy,
    "HELP": Session._on_help,
    "QUIT": Session._on_quit,
    "EXPN": Session._on_unoffered,
    "AUTH": Session._on_unoffered,
    "ETRN": Session._on_unoffered,
}

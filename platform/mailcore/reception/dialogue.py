"""The server's side of an SMTP session as a state machine: octets in, steps out.

Gives    Reception
Takes    what the client sent, in pieces of any size; what became of a Verify or a Take
Raises   nothing: whatever a client sends is answered
Follows  RFC 5321 §4 (commands, order, replies), RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 2920
         (pipelining), RFC 3030 (BDAT), RFC 2034 (enhanced status)

One thing at a time: while a step is not answered nothing more is read. Lines end in CRLF; a CR or
LF alone, or a NUL, ends the session. So does what stands behind a command that must be the last of
its group (EHLO, STARTTLS, AUTH, DATA): its sender did not wait for the answer, and what it sent
blindly could be read as something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailcore.address import ForwardPath
from mailcore.reception import replies
from mailcore.reception.answers import CHATTER, Answers
from mailcore.reception.auth import MECHANISMS, Login
from mailcore.reception.commands import CommandFault, Offered, read_greeting, read_mail
from mailcore.reception.incoming import read_content
from mailcore.reception.lines import LineMisread, LineNotText, Lines, LineTooLong
from mailcore.reception.transaction import Transaction
from mailcore.reception.values import (
    Doorkeeper,
    Gauge,
    Identity,
    Limits,
    Say,
    StartTls,
    Step,
    Take,
    Verify,
    Waits,
    protocol_name,
)
from mailcore.reply import SmtpReply

_HTTP = frozenset({"GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS", "PRI"})
_BARE_ARGUMENT = frozenset({"DATA", "RSET", "STARTTLS"})
_LAST_OF_GROUP = frozenset({"EHLO", "HELO", "STARTTLS", "AUTH", "DATA"})


class Reception:
    """One session. `own_identity` is that of a host which need not log in."""

    def __init__(
        self,
        *,
        host: str,
        limits: Limits,
        doorkeeper: Doorkeeper,
        gauge: Gauge,
        postmaster: ForwardPath,
        is_tls: bool = False,
        can_start_tls: bool = False,
        own_identity: Identity | None = None,
    ) -> None:
        self._host: Final = host
        self._limits: Final = limits
        self._doorkeeper: Final = doorkeeper
        self._login = Login(own_identity)
        self._can_start_tls = can_start_tls
        self._is_tls = is_tls
        self._transaction = Transaction(limits, gauge, postmaster)
        self._lines = Lines()
        self._answers = Answers(limits)
        self._is_closing_down = False
        self.waits = Waits.NOTHING
        self._forget()

    def _forget(self) -> None:
        """Know nothing about the client, as before EHLO (RFC 3207 §4.2)."""
        self._ehlo = ""
        self._is_extended = False
        self._login.forget()
        self._transaction.reset()

    # -- what the server around it calls

    def greet(self) -> list[Step]:
        """Return what is said first."""
        return [Say(f"220 {self._host} ESMTP Postfleet\r\n".encode("ascii"))]

    def receive(self, octets: bytes) -> list[Step]:
        """Take what came; return what to do about it."""
        if self.is_over:
            return []
        self._lines.add(octets)
        return self._go_on()

    def secured(self) -> list[Step]:
        """The TLS handshake is over."""
        self.waits = Waits.NOTHING
        self._is_tls = True
        self._lines.clear()
        self._forget()
        return self._go_on()

    def verified(self, identity: Identity) -> list[Step]:
        """The credentials are good."""
        self.waits = Waits.NOTHING
        if self.is_over:
            return []
        self._login.accept(identity)
        self._answers.say(b"235 2.7.0 welcome\r\n")
        return self._go_on()

    def not_verified(self, *, is_temporary: bool = False) -> list[Step]:
        """The credentials are not good, or nobody could tell."""
        self.waits = Waits.NOTHING
        if self.is_over:
            return []
        if is_temporary:
            self._answers.say(b"454 4.7.0 credentials cannot be checked now\r\n")
        else:
            self._fail_auth(SmtpReply.local(535, "5.7.8", "user or password is wrong"))
        return self._go_on()

    def decided(self, reply: SmtpReply) -> list[Step]:
        """The letter was taken, or not: say so, and only now."""
        self.waits = Waits.NOTHING
        self._transaction.reset()
        if self.is_over:
            return []
        if reply.is_positive:
            self._answers.forgive()
        self._answers.say(replies.reply_octets(reply))
        return self._go_on()

    def close_down(self) -> list[Step]:
        """Finish the transaction under way if there is one, then end the session."""
        self._is_closing_down = True
        return self._go_on()

    def time_out(self) -> list[Step]:
        """The client took too long."""
        if not self.is_over:
            self._answers.end(b"421 4.4.2 timed out, closing\r\n")
        return self._handed_over()

    def abandon(self) -> None:
        """The connection is gone: give back what is held; a letter under way stays so."""
        self._answers.is_over = True
        if self.waits is not Waits.LETTER:
            self._transaction.reset()

    @property
    def is_over(self) -> bool:
        """Whether the last word was said."""
        return self._answers.is_over

    @property
    def is_in_content(self) -> bool:
        """Whether content comes, or came in chunks and is not whole."""
        return self._transaction.has_content

    @property
    def buffered(self) -> int:
        """Octets that came and wait for their turn."""
        return len(self._lines)

    # -- the loop

    def _go_on(self) -> list[Step]:
        transaction = self._transaction
        while self.waits is Waits.NOTHING and not self.is_over:
            if transaction.is_in_content:
                if not self._read_content():
                    break
            elif self._is_closing_down and not transaction.is_open:
                self._answers.end(b"421 4.3.2 closing for maintenance, try again in a moment\r\n")
            elif (line := self._next_line()) is None:
                break
            else:
                self._obey(line)
        return self._handed_over()

    def _handed_over(self) -> list[Step]:
        if self.is_over:
            self.abandon()
        return self._answers.handed_over()

    def _next_line(self) -> str | None:
        """Return the next command line, None if there is none that can be obeyed yet."""
        while not self.is_over:
            is_exchange = self._login.exchange is not None
            is_auth = is_exchange or self._lines.begins_with(b"AUTH ")
            limit = self._limits.auth_bytes if is_auth else self._limits.command_bytes
            try:
                return self._lines.next_line(limit)
            except LineTooLong:
                self._login.exchange = None
                too_long = "5.5.6" if is_exchange else "5.5.2"
                self._answers.refuse(500, too_long, "the line is too long")
            except LineNotText:
                self._login.exchange = None
                self._answers.refuse(500, "5.5.2", "commands are UTF-8")
            except LineMisread:
                text = "CR, LF or NUL inside a command; lines end in CRLF; closing"
                self._answers.end(replies.line(500, "5.5.2", text))
        return None

    def _obey(self, line: str) -> None:
        if self._login.exchange is not None:
            self._advance_login(line)
            return
        verb, _, argument = line.rstrip(" ").partition(" ")
        # Beyond ASCII there are letters whose capitals are letters of our commands.
        verb = verb.upper() if verb.isascii() else verb
        command = _COMMANDS.get(verb)
        if verb in CHATTER:
            CHATTER[verb](self._answers, argument)
        elif command is None:
            if verb in _HTTP:
                self._answers.end(b"500 5.5.1 this is a mail server, not a web server\r\n")
                return
            self._answers.refuse(500, "5.5.2", "there is no such command")
        elif argument and verb in _BARE_ARGUMENT:
            self._answers.refuse(501, "5.5.4", f"{verb} takes no argument")
        elif self._lines and verb in _LAST_OF_GROUP:
            self._answers.end(replies.line(503, "5.5.1", f"wait for the answer to {verb}; closing"))
        else:
            try:
                command(self, argument)
            except CommandFault as exc:
                self._answers.refuse_with(exc.reply)

    # -- commands

    def _ehlo_command(self, argument: str) -> None:
        self._greeted(argument, is_extended=True)
        if self.is_over:
            return
        lines = [self._host, "PIPELINING", f"SIZE {self._limits.message_bytes}"]
        if self._can_start_tls and not self._is_tls:
            lines.append("STARTTLS")
        if self._is_tls and not self._login.is_authenticated:
            lines.append(f"AUTH {' '.join(MECHANISMS)}")
        lines += ["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "CHUNKING"]
        lines += ["DSN"] * self._limits.offers_dsn + ["REQUIRETLS"] * self._is_tls
        self._answers.say(replies.ehlo_octets(lines))

    def _helo_command(self, argument: str) -> None:
        self._greeted(argument, is_extended=False)
        if not self.is_over:
            self._answers.say(f"250 {self._host}\r\n".encode("ascii"))

    def _greeted(self, argument: str, *, is_extended: bool) -> None:
        name = read_greeting(argument)
        if self._answers.goes_on_idly():
            self._transaction.reset()
            self._ehlo, self._is_extended = name, is_extended

    def _starttls_command(self, argument: str) -> None:
        if not self._can_start_tls or self._is_tls:
            self._answers.refuse(503, "5.5.1", "TLS is active, or not offered")
        elif not self._is_extended:
            self._answers.refuse(503, "5.5.1", "say EHLO first")
        else:
            self._answers.say(b"220 2.0.0 go ahead\r\n")
            self._answers.do(StartTls())
            self.waits = Waits.TLS

    def _auth_command(self, argument: str) -> None:
        if not self._is_tls:
            self._answers.refuse(538, "5.7.11", "authentication needs TLS: say STARTTLS first")
        elif not self._is_extended or self._transaction.is_open:
            self._answers.refuse(503, "5.5.1", "AUTH comes after EHLO and outside of a transaction")
        elif self._login.is_authenticated:
            self._answers.refuse(503, "5.5.1", "authenticated already")
        else:
            self._advance_login(argument)

    def _advance_login(self, text: str) -> None:
        """Go on with an exchange, or begin one."""
        if self._lines:
            self._answers.end(b"503 5.5.1 wait for the answer to AUTH; closing\r\n")
            return
        try:
            given = self._login.advance(text)
        except CommandFault as exc:
            self._fail_auth(exc.reply)
            return
        if isinstance(given, bytes):
            self._answers.say(given)
        else:
            self._answers.do(Verify(given.user, given.password))
            self.waits = Waits.VERDICT

    def _fail_auth(self, reply: SmtpReply) -> None:
        self._login.failures += 1
        if self._login.failures >= self._limits.auth_tries:
            self._answers.say(replies.reply_octets(reply))
            self._answers.end(b"421 4.7.0 too many failed logins, closing\r\n")
        else:
            self._answers.refuse_with(reply)

    def _mail_command(self, argument: str) -> None:
        identity = self._login.identity
        if not self._ehlo:
            self._answers.refuse(503, "5.5.1", "say EHLO first")
        elif identity is None:
            self._answers.refuse(530, "5.7.0", "authentication required: STARTTLS, then AUTH")
        elif self._transaction.is_open:
            self._answers.refuse(503, "5.5.1", "a transaction is open: send it or say RSET")
        else:
            mail = read_mail(argument, self._offered)
            admission = self._doorkeeper.admit(identity)
            if admission.refusal is not None:
                self._answers.refuse_with(admission.refusal)
                return
            self._transaction.open(mail, identity, admission)
            self._answers.say(replies.SENDER_OK)

    def _rcpt_command(self, argument: str) -> None:
        if not self._transaction.is_open:
            self._answers.refuse(503, "5.5.1", "MAIL comes first")
            return
        try:
            self._transaction.add(argument, self._offered)
            self._answers.say(replies.RECIPIENT_OK)
        except CommandFault as exc:
            # Not counted: a list with many bad addresses is no attack.
            self._answers.say(replies.reply_octets(exc.reply))

    @property
    def _offered(self) -> Offered:
        return Offered(self._is_extended, self._limits.offers_dsn, self._is_tls)

    def _data_command(self, argument: str) -> None:
        self._transaction.begin_data()
        self._answers.say(replies.GO_AHEAD)

    def _bdat_command(self, argument: str) -> None:
        try:
            self._transaction.begin_chunk(argument)
        except CommandFault as exc:
            # Nobody knows where the octets behind this end and the next command begins.
            self._answers.end(replies.reply_octets(exc.reply))
            return
        if self._transaction.is_idle_chunk:
            self._answers.goes_on_idly()

    def _rset_command(self, argument: str) -> None:
        if self._transaction.is_open or self._answers.goes_on_idly():
            self._transaction.reset()
            self._answers.say(replies.OK)

    # -- content

    def _read_content(self) -> bool:
        """Read what came of it; return whether there is more to do."""
        arrived = read_content(self._transaction, self._lines)
        if arrived is None:
            return False
        reply = arrived.reply
        if reply is None:
            self._offer(arrived.content)
        elif arrived.is_fatal:
            self._answers.end(replies.reply_octets(reply))
        elif reply.is_positive:
            self._answers.say(replies.reply_octets(reply))
        else:
            self._answers.refuse_with(reply)
        return True

    def _offer(self, content: bytes) -> None:
        """Hand the message over, unless it is known already that nobody may have it."""
        transaction = self._transaction
        refusal = transaction.judge(content)
        if refusal is not None:
            transaction.reset()
            self._answers.refuse_with(refusal)
            return
        protocol = protocol_name(
            is_extended=self._is_extended,
            is_utf8=transaction.needs_smtputf8,
            is_tls=self._is_tls,
            is_authenticated=self._login.is_authenticated,
        )
        self._answers.do(Take(transaction.letter(content, ehlo=self._ehlo, protocol=protocol)))
        self.waits = Waits.LETTER


_COMMANDS: Final[dict[str, Callable[[Reception, str], None]]] = {
    "EHLO": Reception._ehlo_command,
    "HELO": Reception._helo_command,
    "STARTTLS": Reception._starttls_command,
    "AUTH": Reception._auth_command,
    "MAIL": Reception._mail_command,
    "RCPT": Reception._rcpt_command,
    "DATA": Reception._data_command,
    "BDAT": Reception._bdat_command,
    "RSET": Reception._rset_command,
}

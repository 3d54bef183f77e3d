"""One mail transaction of the server: MAIL, RCPT and the content, until it is a Letter.

Gives    Transaction, Chunk
Raises   CommandFault with the reply to give
Follows  RFC 5321 §3.3 and §4.5.3 (order, limits), §6.3 (loops), RFC 1870 (SIZE), RFC 3030 (BDAT)
"""

from __future__ import annotations

from mailcore.address import ForwardPath
from mailcore.reception.commands import (
    CommandFault,
    MailCommand,
    Offered,
    read_bdat,
    read_rcpt,
)
from mailcore.reception.content import Content
from mailcore.reception.trace import count_received
from mailcore.reception.values import (
    Admission,
    Gauge,
    Identity,
    Letter,
    LetterRecipient,
    Limits,
)
from mailcore.reply import SmtpReply

_FULL = SmtpReply.local(452, "4.3.1", "too much mail at once, try again in a moment")
_OUT_OF_ORDER = SmtpReply.local(503, "5.5.1", "MAIL and RCPT come first")
_NOBODY = SmtpReply.local(554, "5.5.1", "no recipient was accepted")


class Chunk:
    """A BDAT command whose octets are still coming. `refusal`: they are read and dropped."""

    __slots__ = ("count", "is_last", "left", "refusal")

    def __init__(self, count: int, *, is_last: bool, refusal: SmtpReply | None) -> None:
        self.count = self.left = count
        self.is_last = is_last
        self.refusal = refusal


class Transaction:
    """The transaction of a session; `reset` ends one and makes room for the next."""

    def __init__(self, limits: Limits, gauge: Gauge, postmaster: ForwardPath) -> None:
        self._limits = limits
        self._gauge = gauge
        self._postmaster = postmaster
        self._content: Content | None = None
        self.reset()

    def reset(self) -> None:
        """Forget it all."""
        if self._content is not None:
            self._content.release()
        self._mail: MailCommand | None = None
        self._identity: Identity | None = None
        self._recipients: dict[str, LetterRecipient] = {}
        self._content = None
        self._failure: SmtpReply | None = None
        self._limit_bytes = self._limits.message_bytes
        self._limit_recipients = self._limits.recipients
        self.is_in_data = False
        self.chunk: Chunk | None = None

    @property
    def is_open(self) -> bool:
        """Whether MAIL was accepted."""
        return self._mail is not None

    @property
    def is_in_content(self) -> bool:
        """Whether what comes next is content."""
        return self.is_in_data or self.chunk is not None

    @property
    def has_content(self) -> bool:
        """Whether content comes, or came in chunks that are not all."""
        return self.is_in_content or self._content is not None

    @property
    def content(self) -> Content:
        """The content that comes; only once there is some."""
        if self._content is None:
            account_id = self._identity.account_id if self._identity is not None else 0
            self._content = Content(self._limit_bytes, self._gauge, account_id)
        return self._content

    def open(self, mail: MailCommand, identity: Identity, admission: Admission) -> None:
        """Begin with what MAIL said."""
        limit = min(self._limits.message_bytes, admission.message_bytes or 2**62)
        if mail.size > limit:
            raise CommandFault(552, "5.3.4", f"a message may take {limit} octets")
        self._mail, self._identity = mail, identity
        self._limit_bytes = limit
        self._limit_recipients = min(self._limits.recipients, admission.recipients or 2**62)

    def add(self, argument: str, offered: Offered) -> None:
        """Take a recipient; one that is there already is not mailed twice."""
        if self._mail is None or self.has_content or self._failure is not None:
            raise CommandFault(503, "5.5.1", "RCPT comes behind MAIL and before the content")
        recipient = read_rcpt(
            argument,
            offered,
            allows_utf8=self._mail.needs_smtputf8,
            postmaster=self._postmaster,
        )
        key = recipient.address.key
        if key not in self._recipients and len(self._recipients) >= self._limit_recipients:
            text = f"at most {self._limit_recipients} recipients: send it to the others again"
            raise CommandFault(452, "4.5.3", text)
        self._recipients.setdefault(key, recipient)

    # -- DATA

    def begin_data(self) -> None:
        """Content comes, up to its dot."""
        refusal = self._cannot_begin()
        if refusal is None and self._content is not None:
            refusal = SmtpReply.local(503, "5.5.1", "this message came with BDAT: end it so")
        if refusal is not None:
            raise CommandFault(refusal.code, str(refusal.enhanced), refusal.text)
        self.is_in_data = True

    def _cannot_begin(self) -> SmtpReply | None:
        if self._mail is None or self._identity is None:
            return _OUT_OF_ORDER
        if self._failure is not None:
            return self._failure  # of a chunk: without its octets this is another message
        if not self._recipients:
            return _NOBODY
        if self._content is None and self._gauge.is_full_for(self._identity.account_id):
            return _FULL
        return None

    @property
    def endless_bytes(self) -> int:
        """So much is read to be dropped, and no more."""
        return 2 * self._limit_bytes + 2**20

    @property
    def too_large(self) -> SmtpReply:
        """What a message beyond the limit is answered with."""
        text = f"a message may take {self._limit_bytes} octets"
        return SmtpReply.local(552, "5.3.4", text)

    # -- BDAT

    def begin_chunk(self, argument: str) -> None:
        """So many octets come. CommandFault: it cannot be told how many, or they are too many
        to read only to drop them."""
        command = read_bdat(argument)
        refusal = self._cannot_begin()
        if command.count > self.endless_bytes:
            raise CommandFault(552, "5.3.4", self.too_large.text)
        if refusal is None and self.content.length + command.count > self._limit_bytes:
            refusal = self.too_large
        if self._mail is not None:
            self._failure = refusal
        self.chunk = Chunk(command.count, is_last=command.is_last, refusal=refusal)

    @property
    def is_idle_chunk(self) -> bool:
        """Whether the chunk brings no message forward."""
        chunk = self.chunk
        return chunk is not None and (chunk.refusal is not None or not chunk.count)

    def add_to_chunk(self, octets: bytes) -> bool:
        """Take octets; return whether the chunk is whole."""
        chunk = self.chunk
        if chunk is None:
            return True
        chunk.left -= len(octets)
        if chunk.refusal is None:
            self.content.add(octets)
            if self.content.is_short:
                chunk.refusal = self._failure = _FULL
        return not chunk.left

    def end_chunk(self) -> SmtpReply | None:
        """The chunk is whole; return why it is refused."""
        chunk, self.chunk = self.chunk, None
        return chunk.refusal if chunk is not None else None

    # -- the end

    def judge(self, content: bytes) -> SmtpReply | None:
        """Return why nobody needs to be asked about this message."""
        if self.content.length > self._limit_bytes and (
            self.content.is_too_large or len(content) > self._limit_bytes
        ):
            return self.too_large
        if self.content.is_short:
            return _FULL
        if count_received(content) > self._limits.received_fields:
            return SmtpReply.local(554, "5.4.6", "too many hops: this mail goes in circles")
        return None

    def letter(self, content: bytes, *, ehlo: str, protocol: str) -> Letter:
        """Return the whole of it. Only of a transaction that has all its parts."""
        if self._mail is None or self._identity is None:
            raise ValueError("the transaction is not open")
        return Letter(
            identity=self._identity,
            reverse_path=self._mail.reverse_path,
            recipients=tuple(self._recipients.values()),
            content=content,
            ehlo=ehlo,
            protocol=protocol,
            needs_smtputf8=self._mail.needs_smtputf8,
            ret=self._mail.ret,
            envid=self._mail.envid,
            requires_tls=self._mail.requires_tls,
        )

    @property
    def needs_smtputf8(self) -> bool:
        """Whether MAIL said SMTPUTF8."""
        return self._mail is not None and self._mail.needs_smtputf8

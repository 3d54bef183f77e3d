"""Turn what one connection saw into facts for the tally.

Gives    Recorder, Envelope, Received
Takes    an MX host's provider, name and tally; envelopes, contents and replies of a session
Raises   nothing
Follows  design.md section 5: a copy counts when its 2yz at the dot is written
"""

import time
from collections import deque
from dataclasses import dataclass, field

from lab.commands import MailCommand, RcptCommand
from lab.content import defects_of, digest_of, header_of, lab_id_of
from lab.manner import Defect
from lab.script import Closing, Stage, Step
from lab.tally import ON_THE_WIRE_WINDOW_S, Ending, Fact, Fate, StoredMessage, Tally


@dataclass(slots=True)
class Envelope:
    """A transaction under way; `stage` is how far it has come."""

    mail: MailCommand
    recipients: list[RcptCommand] = field(default_factory=list)
    stage: Stage = Stage.RCPT


@dataclass(frozen=True, slots=True)
class Received:
    """A content, whole, with what names it and what is wrong with it."""

    content: bytes
    lab_id: str
    sha256: str
    defects: frozenset[Defect]


def fate_of(code: int) -> Fate:
    """Return what a reply means for a recipient; what is no reply defers, as a client reads it."""
    if 200 <= code < 300:
        return Fate.ACCEPTED
    return Fate.REFUSED if 500 <= code < 600 else Fate.DEFERRED


def _unnotified(recipients: list[RcptCommand]) -> tuple[str, ...]:
    """Return the recipients nobody wants to hear about."""
    return tuple([one.forward_path for one in recipients if "NEVER" in one.notify])


class Recorder:
    """The facts of one connection."""

    def __init__(self, provider: str, host: str, tally: Tally, peer: str) -> None:
        self.connection = tally.next_connection()
        self.tls: str | None = None
        self.transactions = 0
        self._provider = provider
        self._host = host
        self._tally = tally
        self._peer = peer
        self._recent: deque[tuple[float, int]] = deque()
        self._lost_replies = 0

    def examine(self, content: bytes, mail: MailCommand) -> Received:
        """Name a content and count its defects."""
        sha256 = digest_of(content)
        header = header_of(content)
        defects = defects_of(content, header, is_eight_bit=mail.is_eight_bit, is_utf8=mail.is_utf8)
        for one in sorted(defects, key=lambda defect: defect.value):
            self.defect(one)
        return Received(content, lab_id_of(header, sha256), sha256, frozenset(defects))

    def defect(self, defect: Defect) -> None:
        """Count a fault of the client."""
        self._tally.add_defect(
            self._provider, defect.value, connection=self.connection, at=time.time()
        )

    def session_reply(self, stage: Stage, step: Step) -> None:
        """Count a refusal that speaks of no recipient."""
        if step.text is not None and not 200 <= step.code < 400:
            self._tally.add_reply(
                self._provider, stage.value, step.text, connection=self.connection, at=time.time()
            )

    def recipient_refused(self, mail: MailCommand, recipient: str, step: Step) -> None:
        """Count a recipient refused or deferred at RCPT."""
        self._tally.add(
            self._fact(fate_of(step.code), Stage.RCPT, recipient, mail, step.text, None)
        )

    def answered(self, envelope: Envelope, received: Received, step: Step) -> None:
        """Count a transaction at the reply to its final dot, and keep what was taken."""
        fate = fate_of(step.code)
        for one in envelope.recipients:
            self._tally.add(
                self._fact(fate, Stage.DOT, one.forward_path, envelope.mail, step.text, received)
            )
        if step.closing is Closing.TAKEN:
            self._lost_replies += len(envelope.recipients)
        else:
            now = time.monotonic()
            self._recent.append((now, len(envelope.recipients)))
            while self._recent[0][0] < now - ON_THE_WIRE_WINDOW_S:
                self._recent.popleft()
        if fate is Fate.ACCEPTED:
            recipients = tuple(one.forward_path for one in envelope.recipients)
            self._tally.store(
                StoredMessage(
                    received.lab_id,
                    self._provider,
                    envelope.mail.reverse_path,
                    recipients,
                    received.content,
                    received.sha256,
                    time.time(),
                    peer=self._peer,
                    envid=envelope.mail.envid,
                    unnotified=_unnotified(envelope.recipients),
                )
            )
        self.transactions += 1

    def ended(self, envelope: Envelope | None, partial: bytes, *, is_clean: bool) -> None:
        """Count the end of the connection and what it left unanswered."""
        begun = envelope.recipients if envelope is not None and not is_clean else []
        if begun and envelope is not None:
            received = None
            if partial:
                sha256 = digest_of(partial)
                lab_id = lab_id_of(header_of(partial), sha256)
                received = Received(partial, lab_id, sha256, frozenset())
            for one in begun:
                self._tally.add(
                    self._fact(
                        Fate.UNANSWERED,
                        envelope.stage,
                        one.forward_path,
                        envelope.mail,
                        None,
                        received,
                    )
                )
        since = time.monotonic() - ON_THE_WIRE_WINDOW_S
        self._tally.connection_ended(
            Ending(
                provider=self._provider,
                host=self._host,
                connection=self.connection,
                peer=self._peer,
                at=time.time(),
                is_clean=is_clean,
                is_tls=self.tls is not None,
                transactions=self.transactions,
                unanswered=len(begun),
                just_answered=sum(count for at, count in self._recent if at >= since),
                lost_replies=self._lost_replies,
            )
        )

    def _fact(
        self,
        fate: Fate,
        stage: Stage,
        recipient: str,
        mail: MailCommand,
        reply: str | None,
        received: Received | None,
    ) -> Fact:
        return Fact(
            fate=fate,
            provider=self._provider,
            host=self._host,
            stage=stage.value,
            recipient=recipient,
            reverse_path=mail.reverse_path,
            reply=reply,
            connection=self.connection,
            transaction=self.transactions,
            peer=self._peer,
            at=time.time(),
            monotonic=time.monotonic(),
            lab_id=None if received is None else received.lab_id,
            envid=mail.envid,
            size_bytes=None if received is None else len(received.content),
            sha256=None if received is None else received.sha256,
            tls=self.tls,
        )

"""Say what a message in a mailbox of ours is, and which message of ours it is about.

Gives    InboundKind, Correlation, Inbound; read_inbound
Takes    bytes of a message, the key ring of message tokens, the names of the token's header field,
         what the mailbox is read for
Raises   nothing, whatever the bytes are
Follows  RFC 3464 (DSN), RFC 5965 (ARF), RFC 3834 (automatic answers); design.md section 8

Only a message token that verifies says which message it is about: the addresses and the
Message-ID of a report can be written by anybody.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from mailcore import tokens
from mailcore.classify.arf import Feedback, FeedbackKind, parse_arf
from mailcore.classify.dsn import Dsn, DsnAction, DsnRecipient, parse_dsn
from mailcore.classify.mime import (
    DEFAULT_LIMITS,
    Limits,
    Part,
    decoded_words,
    header_block,
    read_part,
)
from mailcore.classify.prose import first_text, is_from_daemon
from mailcore.errors import TokenError
from mailcore.policy.words import MailboxPurpose
from mailcore.tokens import MessageToken

MAX_CANDIDATES = 20
_SIGNED = r"[a-z2-7]{44}"
_RETURN_PATH = re.compile(
    rf"(?<![\w.+-]){tokens.RETURN_PATH_PREFIX}({_SIGNED})(?=@)", re.IGNORECASE
)
_BARE = re.compile(rf"(?<![\w-])({_SIGNED})(?![\w-])", re.IGNORECASE)
# Who the message was sent to, as the servers on its way wrote it, the surest first.
_RECIPIENT_FIELDS = (
    "delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-delivered-to",
    "x-rcpt-to", "original-recipient", "to", "cc",
)  # fmt: skip
_OUT_OF_OFFICE = re.compile(
    r"\bout of (?:the )?office|automatic(?:ally)? (?:generated )?reply|auto(?:matic)?[- ]?(?:reply"
    r"|response|responder)|\bvacation\b|on holiday|abwesenheit|absence du bureau"
    r"|fuera de la oficina|автоответ|\bnicht im b(?:ü|ue)ro",
    re.IGNORECASE,
)
_CHALLENGE = re.compile(
    r"(?:confirm|verify) (?:that )?(?:you are|you're|your) (?:a )?(?:human|real|person|e?-?mail"
    r"|message|sender)|sender (?:verification|confirmation)|approve (?:me|this sender)"
    r"|challenge[- ]response|to (?:release|deliver) your message,? (?:click|reply)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"[^\s<>()\[\]:;,\"'@]{1,64}@[^\s<>()\[\]:;,\"'@]{1,255}")
_ANSWER = re.compile(r"\s*(?:re|aw|antw|sv|vs|odp|rif|ref|rép|ответ)\s*(?:\[\d+\])?\s*:", re.I)


class InboundKind(Enum):
    """What a message is; stored with the count of its mailbox, so the values never change."""

    BOUNCE = "bounce"
    DELAY = "delay"
    RECEIPT = "receipt"
    COMPLAINT = "complaint"
    FEEDBACK = "feedback"
    AUTO_REPLY = "auto_reply"
    CHALLENGE = "challenge"
    REPLY = "reply"
    OTHER = "other"

    @property
    def is_told(self) -> bool:
        """Whether it makes an event, once it is known which message it is about."""
        return self in (InboundKind.BOUNCE, InboundKind.COMPLAINT, InboundKind.REPLY)


class Correlation(Enum):
    """How it is known which message it is about."""

    RETURN_PATH = "return_path"
    RETURNED = "returned"
    NONE = "none"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message read. `why` says in a word or two what made it this kind, for the log; `sender`
    is the address in its From field."""

    kind: InboundKind
    correlation: Correlation
    token: MessageToken | None = None
    dsn: Dsn | None = None
    feedback: Feedback | None = None
    subject: str = ""
    why: str = ""
    sender: str = ""

    def named(self) -> frozenset[str]:
        """Return the addresses it says it is about, in lower case."""
        found = [self.sender] if self.kind is InboundKind.REPLY else []
        for each in self.dsn.recipients if self.dsn is not None else ():
            found += (each.original, each.final)
        if self.feedback is not None:
            found += self.feedback.original_rcpt_to
        return frozenset(address.lower() for address in found if address)

    def bounced(self, recipient: str) -> DsnRecipient | None:
        """Return what a notification says of the recipient that the token names, if it failed.

        Of several, the one that is named; where nobody of that name is (a list or a forwarder
        stands between), all must have failed.
        """
        told = self.dsn.recipients if self.dsn is not None else ()
        wanted = recipient.lower()
        named = [each for each in told if wanted in (each.original.lower(), each.final.lower())]
        about = named or told
        failed = [each for each in about if each.action is DsnAction.FAILED]
        return failed[0] if failed and (named or len(failed) == len(told)) else None


def read_inbound(
    octets: bytes,
    *,
    ring: Mapping[int, bytes],
    headers: Collection[str],
    purpose: MailboxPurpose = MailboxPurpose.ALL,
    limits: Limits = DEFAULT_LIMITS,
) -> Inbound:
    """Return what a message is and which of ours it is about."""
    message = read_part(octets, limits=limits)
    subject = decoded_words(message.get("subject"))[:300]
    dsn = feedback = None
    if (feedback := parse_arf(message)) is not None:
        kind = InboundKind.COMPLAINT if feedback.kind.is_complaint else InboundKind.FEEDBACK
        why = feedback.kind.value
    elif (dsn := parse_dsn(message)) is not None:
        kind, why = _kind_of_dsn(dsn), "report" if dsn.is_standard else "prose"
    else:
        kind, why = _kind_of_mail(message, subject)
    correlation, token = _correlate(message, octets[: limits.size_bytes], ring, headers)
    if (
        purpose is MailboxPurpose.COMPLAINTS
        and kind in (InboundKind.OTHER, InboundKind.REPLY)
        and correlation is Correlation.RETURNED
        and any(part.media_type.startswith("message/") for part in message.walk())
    ):
        # Some providers forward what was complained of as it is, to a mailbox for nothing else.
        kind, why = InboundKind.COMPLAINT, "forwarded"
        feedback = Feedback(FeedbackKind.ABUSE)
    sender = next(reversed(_ADDRESS.findall(message.get("from")[:1000])), "")
    return Inbound(kind, correlation, token, dsn, feedback, subject, why, sender)


def _kind_of_dsn(dsn: Dsn) -> InboundKind:
    actions = {each.action for each in dsn.recipients}
    if DsnAction.FAILED in actions:
        return InboundKind.BOUNCE
    return InboundKind.DELAY if DsnAction.DELAYED in actions else InboundKind.RECEIPT


def _kind_of_mail(message: Part, subject: str) -> tuple[InboundKind, str]:
    """Tell people from machines (RFC 3834 §5)."""
    text = first_text(message)[:4000]
    if _CHALLENGE.search(subject) or _CHALLENGE.search(text):
        return InboundKind.CHALLENGE, "wording"
    submitted = message.get("auto-submitted").strip().lower()
    if submitted and not submitted.startswith("no"):
        return InboundKind.AUTO_REPLY, "auto-submitted"
    if message.get_all("x-autoreply", "x-autorespond", "x-autoresponder"):
        return InboundKind.AUTO_REPLY, "x-autoreply"
    if message.get("precedence").strip().lower() in ("auto_reply", "auto-reply"):
        return InboundKind.AUTO_REPLY, "precedence"
    if _OUT_OF_OFFICE.search(subject):
        return InboundKind.AUTO_REPLY, "subject"
    if is_from_daemon(message) or message.media_type == "multipart/report":
        return InboundKind.OTHER, "daemon"
    is_bulk = message.get("precedence").strip().lower() in ("bulk", "junk", "list")
    if is_bulk or message.get("list-id"):
        return InboundKind.OTHER, "bulk"
    answers = message.get("in-reply-to") or message.get("references") or _ANSWER.match(subject)
    if answers and message.get("from"):
        return InboundKind.REPLY, "answer"
    return InboundKind.OTHER, ""


# --- which message of ours ------------------------------------------------------------------------


def _correlate(
    message: Part, octets: bytes, ring: Mapping[int, bytes], headers: Collection[str]
) -> tuple[Correlation, MessageToken | None]:
    """Return the first token that verifies, and where it stood."""
    seen: set[str] = set()
    for correlation, text in _candidates(message, octets, [name.lower() for name in headers]):
        if text in seen:
            continue
        seen.add(text)
        if len(seen) > MAX_CANDIDATES:
            break
        try:
            return correlation, tokens.read(text, ring=ring)
        except TokenError:
            continue
    return (Correlation.REFUSED if seen else Correlation.NONE), None


def _candidates(
    message: Part, octets: bytes, headers: Collection[str]
) -> Iterator[tuple[Correlation, str]]:
    """Yield what may be a token: of the return path it came to, of what it returns, of its text."""
    for value in message.get_all(*_RECIPIENT_FIELDS):
        for found in _RETURN_PATH.findall(value):
            yield Correlation.RETURN_PATH, found.lower()
    # A report of our own to a sender carries a token too: its own, not that of what it is about.
    is_report = message.media_type == "multipart/report"
    for part in message.walk():
        if part is not message or not is_report:
            for value in part.get_all(*headers):
                for found in _BARE.findall(value):
                    yield Correlation.RETURNED, found.lower()
        if not part.parts:
            yield from _within(part.body, headers)
    yield from _within(octets[header_block(octets, 0)[1] :] if is_report else octets, headers)


def _within(octets: bytes, headers: Collection[str]) -> Iterator[tuple[Correlation, str]]:
    """Yield tokens in a text: a returned header's own field, and return paths wherever."""
    text = octets.decode("latin-1")
    lower = text.lower()
    for header in headers:
        at = lower.find(f"{header}:")
        if at >= 0:
            for found in _BARE.findall(text[at + len(header) + 1 : at + len(header) + 120]):
                yield Correlation.RETURNED, found.lower()
    for match in _RETURN_PATH.finditer(text):
        yield Correlation.RETURNED, match[1].lower()

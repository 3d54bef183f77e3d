"""Read a feedback report: who complained of what.

Gives    Feedback, FeedbackKind; parse_arf
Takes    a Part (classify.mime)
Raises   nothing; None for what is no feedback report
Follows  RFC 5965 (format; an unknown type is read as `other`), RFC 6591 (auth-failure), RFC 6650
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mailcore.classify.mime import Part, header_block

MAX_TEXT = 255


class FeedbackKind(Enum):
    """What a report tells (RFC 5965 §7.3, RFC 6591)."""

    ABUSE = "abuse"
    FRAUD = "fraud"
    VIRUS = "virus"
    OTHER = "other"
    NOT_SPAM = "not-spam"
    OPT_OUT = "opt-out"
    AUTH_FAILURE = "auth-failure"

    @property
    def is_complaint(self) -> bool:
        """Whether the recipient wants no more of this mail."""
        return self not in (FeedbackKind.NOT_SPAM, FeedbackKind.AUTH_FAILURE)


@dataclass(frozen=True, slots=True)
class Feedback:
    """One feedback report. Addresses are as written, "" if not said."""

    kind: FeedbackKind
    user_agent: str = ""
    original_mail_from: str = ""
    original_rcpt_to: tuple[str, ...] = ()
    reported_domain: str = ""


def parse_arf(message: Part) -> Feedback | None:
    """Return what a message reports, None if it is no feedback report."""
    for part in message.walk():
        if part.media_type == "message/feedback-report":
            return _read(part.body)
    return None


def _read(octets: bytes) -> Feedback:
    fields, _ = header_block(octets.lstrip(b"\r\n"))
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value.strip()[:MAX_TEXT])

    def first(name: str) -> str:
        return next(iter(values.get(name, ())), "")

    return Feedback(
        _kind(first("feedback-type")),
        user_agent=first("user-agent"),
        original_mail_from=first("original-mail-from").strip("<> "),
        original_rcpt_to=tuple(each.strip("<> ") for each in values.get("original-rcpt-to", ())),
        reported_domain=first("reported-domain"),
    )


def _kind(text: str) -> FeedbackKind:
    word = text.strip().lower().split(";")[0].strip()
    if word.startswith("opt-out"):
        return FeedbackKind.OPT_OUT
    return next((kind for kind in FeedbackKind if kind.value == word), FeedbackKind.OTHER)

"""Read a bounce that carries no report: what it says in its own words.

Gives    Prose, ProseRecipient; read_prose, first_text, is_from_daemon
Takes    a Part (classify.mime)
Raises   nothing; None for what does not look like a bounce
Follows  no standard: qmail, Exim before 4.88, Exchange and others each have their manner

It must look like one twice: by who sent it (the null reverse-path, a daemon) and by what it says.
A person who writes "undeliverable" in a subject is not taken for a machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mailcore.classify.mime import Part, decoded_words

MAX_TEXT = 32 * 1024
MAX_LINES = 400
MAX_RECIPIENTS = 50

_DAEMON = re.compile(
    r"\b(?:mailer[-_ ]?daemon|postmaster|mail[ -]delivery[ -](?:sub)?system|mdaemon|bounce)",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"undeliver|not be? ?delivered|delivery (?:has )?(?:status|failure|failed|report|problem|error"
    r"|notification|incomplete)|failure notice|returned (?:mail|to sender)|mail delivery failed"
    r"|delayed|nondeliver|non[- ]deliver|unzustellbar|non remis|недостав|no se puede entregar"
    r"|mail system error|warning: (?:message|could not)|rejected",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"could not be delivered|cannot be delivered|couldn't be delivered|wasn't able to deliver"
    r"|unable to deliver|was not delivered|did not reach|delivery (?:has )?failed|undeliverable"
    r"|permanent (?:fatal )?error|has been delayed|has not been delivered|returned to sender"
    r"|not yet been delivered|mail delivery (?:failed|system)|nicht zugestellt|не доставлено",
    re.IGNORECASE,
)
_DELAY = re.compile(
    r"\bdelay(?:ed)?\b|has not yet been delivered|not yet been delivered|will be retried"
    r"|will (?:keep|continue) (?:on )?(?:trying|retrying|to try)|no action is required"
    r"|still (?:being )?(?:trying|retried)|this is a warning",
    re.IGNORECASE,
)
_ADDRESS = r"[^\s<>()\[\]:;,\"'@]{1,64}@[^\s<>()\[\]:;,\"'@]{3,255}"
# "<ann@example.com>:" of qmail; "  ann@example.com" of Exim; "To: ann@…, <ann@…>" of others.
_OWN_LINE = re.compile(rf"[ \t]{{0,8}}<?({_ADDRESS})>?[:.]?[ \t]{{0,8}}$")
_INLINE = re.compile(rf"<({_ADDRESS})>")
_CODE = re.compile(r"(?<![\d.])[45]\d\d[ -](?:#?[45]\.\d{1,3}\.\d{1,3}|\D)|#[45]\.\d{1,3}\.\d{1,3}")
_ORIGINAL = re.compile(
    r"-{2,}.{0,40}(?:copy of (?:the|your) message|original (?:message|headers)|returned message"
    r"|message headers|this is a copy)"
    r"|^(?:received: |return-path: |x-[\w-]{1,40}: )",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(?:br|p|div|tr|li)\b[^<>]{0,400}>|</(?:p|div|tr|td|li|h\d)>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?[a-z!][^<>@]{0,400}>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProseRecipient:
    """An address that is named, and what is said of it."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prose:
    """What a bounce says. `reason` is said of the message, where nobody is named."""

    is_delay: bool
    recipients: tuple[ProseRecipient, ...]
    reason: str


def is_from_daemon(message: Part) -> bool:
    """Whether a machine sent it that takes no answer: null reverse-path, or a daemon's name."""
    return_path = message.get_all("return-path")
    if any(path.strip() in ("<>", "") for path in return_path):
        return True
    who = " ".join(message.get_all("from", "sender")) + " ".join(return_path)
    return _DAEMON.search(decoded_words(who[:500])) is not None


def first_text(message: Part) -> str:
    """Return what a reader would see first: the first plain text, else the first HTML without
    its tags; never a message that is attached."""
    html = ""
    for part in _own_parts(message):
        if part.media_type == "text/plain" and part.body.strip():
            return part.text[:MAX_TEXT]
        if part.media_type == "text/html" and not html:
            html = _ANY_TAG.sub("", _TAG.sub("\n", part.text[: 2 * MAX_TEXT]))
    return html[:MAX_TEXT]


def _own_parts(part: Part) -> Iterator[Part]:
    if not part.media_type.startswith("message/"):
        yield part
        for each in part.parts:
            yield from _own_parts(each)


def read_prose(message: Part) -> Prose | None:
    """Return what a bounce without a report says, None for what is none."""
    if not is_from_daemon(message):
        return None
    subject = decoded_words(message.get("subject"))[:300]
    lines = _before_original(first_text(message).splitlines()[:MAX_LINES])
    text = "\n".join(lines)
    named = message.get_all("x-failed-recipients")
    if not (named or _SUBJECT.search(subject) or _PHRASE.search(text)):
        return None
    recipients = _with_reasons(lines) or _alone(named, text)
    is_delay = bool(_DELAY.search(subject) or _DELAY.search(text)) and not _is_final(subject, text)
    return Prose(is_delay, recipients, _first_reason(lines) or _shortened(text))


def _is_final(subject: str, text: str) -> bool:
    """Whether it says that nobody tries any more, though it may tell of a delay before."""
    said = re.search(
        r"mail delivery failed|failure notice|permanent|given up|giving up|returned to sender"
        r"|undeliverable|could not be delivered|too long",
        f"{subject}\n{text}",
        re.IGNORECASE,
    )
    return said is not None and re.search(r"warning", subject, re.IGNORECASE) is None


def _before_original(lines: Sequence[str]) -> Sequence[str]:
    for number, line in enumerate(lines):
        if _ORIGINAL.search(line[:200]):
            return lines[:number]
    return lines


def _with_reasons(lines: Sequence[str]) -> tuple[ProseRecipient, ...]:
    """Return the addresses that stand on a line of their own, with the paragraph below."""
    found: list[ProseRecipient] = []
    number = 0
    while number < len(lines) and len(found) < MAX_RECIPIENTS:
        own = _OWN_LINE.match(lines[number][:400])
        number += 1
        if own is None:
            continue
        reason: list[str] = []
        while number < len(lines) and (lines[number].strip() or not reason):
            if _OWN_LINE.match(lines[number][:400]):
                break
            if lines[number].strip():
                reason.append(lines[number].strip())
            number += 1
        found.append(ProseRecipient(own[1], " ".join(reason)[:1000]))
    return tuple(found)


def _alone(named: Sequence[str], text: str) -> tuple[ProseRecipient, ...]:
    """Return who is named in a field of the header, else within the text, with one reason."""
    reason = _first_reason(text.splitlines()) or _shortened(text)
    addresses = [each.strip() for field in named for each in field.split(",") if "@" in each]
    if not addresses:
        addresses = list(dict.fromkeys(_INLINE.findall(text)))
    return tuple(ProseRecipient(each, reason) for each in addresses[:MAX_RECIPIENTS])


def _first_reason(lines: Sequence[str]) -> str:
    """Return the first line that quotes a code, with the one it goes on in."""
    for number, line in enumerate(lines):
        if _CODE.search(line[:600]):
            return " ".join(each.strip() for each in lines[number : number + 3])[:1000]
    return ""


def _shortened(text: str) -> str:
    return " ".join(text.split())[:300]

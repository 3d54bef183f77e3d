"""Read a delivery status notification: what became of which recipient, and in whose words.

Gives    Dsn, DsnRecipient, DsnAction; parse_dsn, the one entry
Takes    a Part (classify.mime)
Raises   nothing; None for what is no notification
Follows  RFC 3464 (report, fields, actions), RFC 3463 (status), RFC 6533 (internationalised),
         and, for what carries no report, the words by which MTAs are known to say so (prose.py)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from mailcore.classify.mime import Part, decoded_words, header_block
from mailcore.classify.prose import Prose, ProseRecipient, read_prose
from mailcore.reply import EnhancedStatus, SmtpReply

MAX_RECIPIENTS = 200
MAX_TEXT = 1000
_REPORTS = frozenset({"message/delivery-status", "message/global-delivery-status"})
_TYPED = re.compile(r"\s*[\w.+-]{1,40}\s*;\s*")
_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_STATUS = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")
_AT_START = re.compile(r"\W{0,3}([245]\d\d)(?![\d.])")
_WITH_STATUS = re.compile(r"(?<![\d.])([245]\d\d)[ -]{1,3}#?[245]\.\d{1,3}\.\d{1,3}\b")
_SAID = re.compile(
    r"(?:said|answered|replied|responded|response|error|code|status|after[ \w]{0,20})"
    r"\W{1,4}(?:smtp\W{1,2})?([45]\d\d)(?![\d.])",
    re.IGNORECASE,
)
_ANY_CODE = re.compile(r"(?<![\d.#:/-])([45][0-5]\d)[ -](?=\D)")


class DsnAction(Enum):
    """What the reporting MTA did for a recipient (RFC 3464 §2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class DsnRecipient:
    """What a notification says of one recipient. Addresses are as written, "" if not said."""

    action: DsnAction
    final: str = ""
    original: str = ""
    status: EnhancedStatus | None = None
    diagnostic: str = ""
    remote_mta: str = ""

    def reply(self) -> SmtpReply:
        """Return the words as the server's reply that they quote, as near as can be told."""
        return reply_of(self.diagnostic, self.status)


@dataclass(frozen=True, slots=True)
class Dsn:
    """One notification. `is_standard` says that it carries a report by RFC 3464."""

    recipients: tuple[DsnRecipient, ...]
    reporting_mta: str = ""
    is_standard: bool = True


def parse_dsn(message: Part) -> Dsn | None:
    """Return what a message notifies of, None if it is no notification."""
    for part in message.walk():
        if part.media_type in _REPORTS and (found := _standard(part)) is not None:
            return found
    prose = read_prose(message)
    return None if prose is None else _from_prose(prose)


# --- with a report --------------------------------------------------------------------------------


def _standard(part: Part) -> Dsn | None:
    groups = list(_groups(_content(part)))
    about_message = next((g for g in groups if "reporting-mta" in g), {})
    recipients = [
        found for group in groups[:MAX_RECIPIENTS] if (found := _recipient(group)) is not None
    ]
    if not recipients:
        return None
    return Dsn(tuple(recipients), _untyped(about_message.get("reporting-mta", "")))


def _content(part: Part) -> bytes:
    """The report's fields; some MTAs put an empty line or another header before them."""
    if part.parts:
        return b"\n".join(each.body for each in part.parts)
    return part.body


def _groups(octets: bytes) -> Iterator[dict[str, str]]:
    """Yield the groups of fields: parted by empty lines, or where a recipient's fields repeat."""
    at = 0
    while at < len(octets):
        fields, end = header_block(octets, at)
        group: dict[str, str] = {}
        for name, value in fields:
            if name in group and name in ("final-recipient", "action"):
                yield group
                group = {}
            group.setdefault(name, value)
        if group:
            yield group
        if end == at:
            # A line that is no field: a report that was damaged on its way goes on behind it.
            line_end = octets.find(b"\n", at)
            end = line_end + 1 if line_end >= 0 else len(octets)
        at = end


def _recipient(group: Mapping[str, str]) -> DsnRecipient | None:
    status = _status(group.get("status", ""))
    action = _action(group.get("action", ""), status)
    final = _untyped(group.get("final-recipient", ""))
    original = _untyped(group.get("original-recipient", ""))
    if action is None or not (final or original or "status" in group):
        return None
    diagnostic = decoded_words(_untyped(group.get("diagnostic-code", "")))
    return DsnRecipient(
        action,
        final=_address(final),
        original=_address(original),
        status=status,
        diagnostic=diagnostic[:MAX_TEXT],
        remote_mta=_untyped(group.get("remote-mta", ""))[:255],
    )


def _action(text: str, status: EnhancedStatus | None) -> DsnAction | None:
    """The action, by its first word; by the status where it is missing or none of the five."""
    word = re.match(r"\s*([a-z]{1,12})", text.lower())
    if word is not None:
        for action in DsnAction:
            if word[1].startswith(action.value[:6]):
                return action
    by_class = {2: DsnAction.DELIVERED, 4: DsnAction.DELAYED, 5: DsnAction.FAILED}
    return by_class.get(status.klass) if status is not None else None


def _status(text: str) -> EnhancedStatus | None:
    found = _STATUS.search(text[:200])
    return None if found is None else EnhancedStatus(*(int(part) for part in found.groups()))


def _untyped(value: str) -> str:
    """Return a field's value without its type (`rfc822;`, `smtp;`, `dns;`)."""
    return _TYPED.sub("", value, count=1).strip() if _TYPED.match(value) else value.strip()


def _address(text: str) -> str:
    """Return a recipient as people write it: no angle brackets, no `\\x{…}` (RFC 6533 §3)."""
    plain = _HEX.sub(lambda found: _character(int(found[1], 16)), text)
    return plain.strip().strip("<>").strip()[:320]


def _character(number: int) -> str:
    is_character = 0x20 < number < 0x110000 and not 0xD800 <= number < 0xE000
    return chr(number) if is_character else "\ufffd"


# --- the reply that is quoted ---------------------------------------------------------------------


def reply_of(diagnostic: str, status: EnhancedStatus | None) -> SmtpReply:
    """Return the reply that a diagnostic quotes; what it does not say, the status tells.

    Several lines of one reply come joined, each with its code: the code is said once.
    """
    text = " ".join(diagnostic.split())[:MAX_TEXT]
    found = next(
        (
            match
            for pattern in (_AT_START, _WITH_STATUS, _SAID, _ANY_CODE)
            if (match := (pattern.match if pattern is _AT_START else pattern.search)(text))
        ),
        None,
    )
    if found is None:
        klass = status.klass if status is not None else 5
        inside = _status(text) if status is None else status
        return SmtpReply({2: 250, 4: 450}.get(klass, 550), (text,) if text else (), inside)
    code = int(found[1])
    words = text[found.end(1) :].lstrip(" -")
    words = re.sub(rf"(?<![\d.]){code}[ -](?=\D|[245]\.)", "", words)
    inside = _status(words[:40])
    if inside is not None and inside.klass == code // 100:
        words = re.sub(rf"#?\b{re.escape(str(inside))}\b[ -]{{0,2}}", "", words)
        return SmtpReply(code, (words.strip(),), inside)
    fits = status is not None and status.klass == code // 100
    return SmtpReply(code, (words.strip(),), status if fits else None)


# --- without --------------------------------------------------------------------------------------


def _from_prose(prose: Prose) -> Dsn:
    action = DsnAction.DELAYED if prose.is_delay else DsnAction.FAILED
    recipients: Sequence[ProseRecipient] = prose.recipients or (ProseRecipient("", prose.reason),)
    return Dsn(
        tuple(
            DsnRecipient(
                action,
                final=each.address,
                status=_status(each.reason),
                diagnostic=each.reason[:MAX_TEXT],
            )
            for each in recipients[:MAX_RECIPIENTS]
        ),
        is_standard=False,
    )

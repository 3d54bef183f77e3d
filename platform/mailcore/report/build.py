"""The report as a message: for people, for programs, and what it is about.

Gives    build_report
Takes    a Report, the message's content while the spool still has it, who we are, the time
Raises   nothing: what of a content cannot be returned is left out
Follows  RFC 3464 §2 (fields), RFC 6522 §3 (three parts), RFC 6533 §4-6 (types in UTF-8),
         RFC 3461 §6.2-6.3 (what may be returned), RFC 3834 §5 (Auto-Submitted)

All is in seven bits but for a sender whose own address is not: only then can the way back be known
to take UTF-8. Addresses of recipients beyond ASCII are written as RFC 6533 has it for seven bits.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

from mailcore.dsn import DsnReturn, from_xtext, to_xtext_address
from mailcore.errors import SubmissionRefused
from mailcore.events import EventKind
from mailcore.render.build import encode_body, quoted_printable, to_crlf
from mailcore.render.content import PARSER_FAULTS, encode_text, split_content
from mailcore.render.downgrade import to_7bit
from mailcore.report.due import DAEMON, Report, ReportKind, Way, report_id

# Of a longer message only the header is returned, and of a longer header only its beginning.
MAX_RETURNED = 256 * 1024
MAX_HEADER = 32 * 1024
MAX_REPLY = 1000
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,400}@[!-;=?-~]{1,400}>\Z")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")

_SUBJECTS = {
    ReportKind.FAILED: "Undelivered: your mail to",
    ReportKind.DELAYED: "Delayed: your mail to",
    ReportKind.RELAYED: "Handed over: your mail to",
}
_OPENINGS = {
    ReportKind.FAILED: "Your message could not be delivered to this recipient:",
    ReportKind.DELAYED: "Your message could not be delivered to this recipient yet:",
    ReportKind.RELAYED: "Your message to this recipient was handed over to the next mail server:",
}


def build_report(
    report: Report, way: Way, *, content: bytes | None, host: str, now: datetime
) -> bytes:
    """Return the whole message, CRLF bytes."""
    is_global = not report.facts.reverse_path.isascii()
    returned, words = _returned(report, content)
    parts = [_for_people(report, host, words), _for_programs(report, host, is_global=is_global)]
    if returned:
        parts.append(returned)
    boundary = f"=_{hashlib.blake2b(report.key.encode(), digest_size=16).hexdigest()}"
    mark = f"--{boundary}".encode("ascii")
    pieces = [b"\r\n".join([*_header(report, way, boundary, now), b"", b""])]
    for part in parts:
        pieces += [mark, b"\r\n", part, b"\r\n"]
    return b"".join([*pieces, mark, b"--\r\n"])


def _header(report: Report, way: Way, boundary: str, now: datetime) -> Iterator[bytes]:
    yield f"From: Mail Delivery System <{DAEMON}@{way.domain}>".encode("ascii")
    yield f"To: <{report.facts.reverse_path}>".encode()
    yield encode_text("Subject", f"{_SUBJECTS[report.kind]} {report.event.recipient}")
    yield f"Date: {format_datetime(now)}".encode("ascii")
    yield f"Message-ID: {report_id(report, way.domain)}".encode("ascii")
    if _MESSAGE_ID.match(report.event.message_id_header):
        yield f"In-Reply-To: {report.event.message_id_header}".encode("ascii")
        yield f"References: {report.event.message_id_header}".encode("ascii")
    yield b"Auto-Submitted: auto-replied"
    yield b"MIME-Version: 1.0"
    yield b"Content-Type: multipart/report; report-type=delivery-status;"
    yield f'\tboundary="{boundary}"'.encode("ascii")


# ── for people ────────────────────────────────────────────────────────────────────────────────


def _for_people(report: Report, host: str, words: str) -> bytes:
    event = report.event
    paragraphs = [
        f"This is the mail system at {host}.",
        _OPENINGS[report.kind],
        f"    {_line(event.recipient)}",
        *_reason(report),
        words,
    ]
    if event.message_id_header:
        paragraphs.append(f"Message-ID: {_line(event.message_id_header)}")
    filled = (text if text.startswith("    ") else textwrap.fill(text, 72) for text in paragraphs)
    encoding, data = encode_body(to_crlf(("\n\n".join(filled) + "\n").encode()))
    charset = "us-ascii" if encoding == "7bit" else "utf-8"
    head = (
        f"Content-Type: text/plain; charset={charset}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n"
        "Content-Description: Notification\r\n\r\n"
    )
    return head.encode("ascii") + data


def _reason(report: Report) -> Iterator[str]:
    """Why, in a sentence, and the words of whoever decided."""
    event, facts = report.event, report.facts
    server = f"The mail server {event.mx_host}" if event.mx_host else "The mail system"
    reply = _line(event.reply)
    if event.kind == EventKind.STOPPED.value:
        yield (
            "The address is on a stop list, because mail to it failed or was not wanted before. "
            "No attempt was made."
        )
        return
    if event.kind == EventKind.PURGED.value:
        yield "An operator removed the message from the queue. It will not be tried again."
        return
    if event.kind == EventKind.EXPIRED.value:
        yield "Its lifetime is over, and it will not be tried again. The last answer was:"
    elif report.kind is ReportKind.DELAYED:
        until = f" until {_date(facts.expires_ms)}" if facts.expires_ms else ""
        yield f"It will be tried again{until}: you need not send it again. The last answer was:"
    elif report.kind is ReportKind.RELAYED:
        yield (
            f"{server} took it and does not report what becomes of it. You will hear of it only "
            "if it fails. The answer was:"
        )
    elif event.kind == EventKind.LATE_BOUNCED.value:
        yield f"{server} took it first, and reported later that it failed:"
    elif facts.is_local:
        yield "It will not be tried again, because:"
    else:
        yield f"{server} refused it and said:"
    yield textwrap.fill(reply or "(nothing)", 72, initial_indent=" " * 4, subsequent_indent=" " * 4)


def _line(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text)[:MAX_REPLY].strip()


# ── for programs ──────────────────────────────────────────────────────────────────────────────


def _for_programs(report: Report, host: str, *, is_global: bool) -> bytes:
    fields = [*_of_message(report, host), "", *_of_recipient(report, is_global=is_global), ""]
    text = "\r\n".join(fields)
    kind, encoding = "message/delivery-status", "7bit"
    if is_global:
        kind, encoding = "message/global-delivery-status", "8bit"
    head = (
        f"Content-Type: {kind}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n"
        "Content-Description: Delivery report\r\n\r\n"
    )
    return head.encode("ascii") + text.encode()


def _of_message(report: Report, host: str) -> Iterator[str]:
    if report.facts.order.envid:
        yield _folded("Original-Envelope-Id", report.facts.order.envid)
    yield f"Reporting-MTA: dns; {host}"
    if report.event.accepted_ms:
        yield f"Arrival-Date: {_date(report.event.accepted_ms)}"


def _of_recipient(report: Report, *, is_global: bool) -> Iterator[str]:
    event, facts = report.event, report.facts
    if facts.order.orcpt:
        yield _folded("Original-Recipient", _original(facts.order.orcpt, is_global=is_global))
    yield f"Final-Recipient: {_typed(event.recipient, is_global=is_global)}"
    yield f"Action: {report.kind.value}"
    yield f"Status: {report.status}"
    if event.mx_host:
        yield f"Remote-MTA: dns; {event.mx_host}"
    if said := _diagnostic(report):
        yield _folded("Diagnostic-Code", said)
    # Only an attempt has a stage; a later report of somebody else tells nothing of its time.
    if event.stage and event.kind != EventKind.LATE_BOUNCED.value:
        yield f"Last-Attempt-Date: {_date(event.occurred_ms)}"
    if report.kind is ReportKind.DELAYED and facts.expires_ms:
        yield f"Will-Retry-Until: {_date(facts.expires_ms)}"


def _diagnostic(report: Report) -> str:
    """What was said, by a server or by us. What an operator wrote is for the event alone."""
    event = report.event
    if event.kind in (EventKind.STOPPED.value, EventKind.PURGED.value) or not event.reply:
        return ""
    is_ours = report.facts.is_local and event.kind != EventKind.LATE_BOUNCED.value
    said = _line(event.reply).encode("ascii", "replace").decode("ascii")
    return f"{'x-postfleet' if is_ours else 'smtp'}; {said}"


def _typed(address: str, *, is_global: bool) -> str:
    if address.isascii():
        return f"rfc822; {address}"
    return f"utf-8; {address if is_global else to_xtext_address(address)}"


def _original(orcpt: str, *, is_global: bool) -> str:
    """Return an ORCPT as a field has it: without xtext (RFC 3461 §5.2.8)."""
    kind, _, text = orcpt.partition(";")
    if kind.lower() != "utf-8":
        return f"{kind}; {_line(from_xtext(text))}"
    return f"utf-8; {_EMBEDDED.sub(_character, text) if is_global else text}"


def _character(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    is_one = number < 0x110000 and chr(number).isprintable() and not 0xD800 <= number < 0xE000
    return chr(number) if is_one else found[0]


def _folded(name: str, value: str) -> str:
    lines = textwrap.wrap(f"{name}: {value}", 76, break_on_hyphens=False, break_long_words=False)
    short = [piece for line in lines for piece in textwrap.wrap(line, 900, break_on_hyphens=False)]
    return "\r\n ".join(short)


def _date(ms: int) -> str:
    return format_datetime(datetime.fromtimestamp(ms // 1000, UTC))


# ── what it is about ──────────────────────────────────────────────────────────────────────────


def _returned(report: Report, content: bytes | None) -> tuple[bytes, str]:
    """Return the last part, and what is said of it; no part where nothing is left."""
    if not content:
        return b"", "The message itself is no longer kept here."
    wants_full = report.kind is ReportKind.FAILED and report.facts.order.returns is DsnReturn.FULL
    head = split_content(content)[0]
    if wants_full and len(content) <= MAX_RETURNED:
        try:
            # A part of this type may not be encoded, so what is in it is.
            whole = _part("message/rfc822", "7bit", to_7bit(content))
        except (SubmissionRefused, *PARSER_FAULTS):
            pass  # signed in eight bits, or with addresses in UTF-8, or beyond our parser
        else:
            return whole, "The message is returned below."
    return _headers(head), "The header of the message is returned below."


def _headers(head: bytes) -> bytes:
    if len(head) > MAX_HEADER:
        # The field that would be cut in two goes as a whole.
        at = head.rfind(b"\r\n", 0, MAX_HEADER)
        while at > 0 and head[at + 2 : at + 3] in (b" ", b"\t"):
            at = head.rfind(b"\r\n", 0, at)
        head = head[: max(at, 0)]
    head += b"\r\n"
    if head.isascii():
        return _part("text/rfc822-headers", "7bit", head)
    return _part("message/global-headers", "quoted-printable", quoted_printable(head))


def _part(kind: str, encoding: str, data: bytes) -> bytes:
    head = (
        f"Content-Type: {kind}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n"
        "Content-Description: Undelivered message\r\n\r\n"
    )
    return head.encode("ascii") + data

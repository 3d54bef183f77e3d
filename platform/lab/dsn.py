"""Write reports of non-delivery as the programs of different houses write them.

Gives    compose_dsn() -> the whole message; Reason, REASONS, Correspondence; part(), assemble()
Takes    the message as it was accepted, the recipient, the reason, who reports
Raises   nothing
Follows  RFC 3464 (fields), RFC 6522 (multipart/report), RFC 3834 (Auto-Submitted)
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate

from lab.content import header_of
from lab.manner import BounceStyle
from lab.tally import StoredMessage

MAX_RETURNED_BYTES = 50_000
_ENVELOPE = ("Return-Path", "Delivered-To")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a message that was accepted could not be delivered after all; `weight` of all such."""

    status: str
    code: int
    text: str
    weight: float


REASONS = (
    Reason("5.1.1", 550, "no mailbox of this name", 0.6),
    Reason("5.2.2", 552, "the mailbox is over its quota", 0.2),
    Reason("5.7.1", 550, "the content was judged unwanted", 0.1),
    Reason("5.4.6", 554, "the message went in a circle", 0.1),
)


@dataclass(frozen=True, slots=True)
class Correspondence:
    """What a report is about and who writes it."""

    message: StoredMessage
    recipient: str
    reporter: str  # host name of the reporting MTA
    at: float

    @property
    def name(self) -> str:
        """What makes boundaries and Message-IDs of this report its own."""
        key = f"{self.message.lab_id} {self.recipient} {self.at}"
        return hashlib.sha256(key.encode()).hexdigest()[:24]

    @property
    def source(self) -> str:
        """The address the message came from."""
        return self.message.peer.rpartition(":")[0] or "127.0.0.1"


def part(kind: str, body: bytes, *, encoding: str | None = None) -> bytes:
    """Return one part of a multipart: its fields and its body, ended by CRLF."""
    if encoding is None:
        encoding = "7bit" if body.isascii() else "8bit"
    body = body if body.endswith(b"\r\n") else body + b"\r\n"
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + body


def assemble(fields: Mapping[str, str], kind: str, boundary: str, parts: list[bytes]) -> bytes:
    """Return a multipart message."""
    body = b"".join(f"--{boundary}\r\n".encode() + one for one in parts)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    encoding = "" if body.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    head = f'{lines}MIME-Version: 1.0\r\nContent-Type: {kind};\r\n\tboundary="{boundary}"\r\n'
    return f"{head}{encoding}\r\n".encode() + body + f"--{boundary}--\r\n".encode()


def fields_of(groups: list[list[tuple[str, str]]]) -> bytes:
    """Return groups of fields with an empty line between them (RFC 3464 §2.1)."""
    return "\r\n".join("".join(f"{n}: {v}\r\n" for n, v in group) for group in groups).encode()


def returned(content: bytes, *, headers_only: bool = False) -> bytes:
    """Return the part that gives the message back, or its header when it is long."""
    if headers_only or len(content) > MAX_RETURNED_BYTES:
        return part("text/rfc822-headers", header_of(content))
    return part("message/rfc822", content)


def compose_dsn(about: Correspondence, reason: Reason, style: BounceStyle) -> bytes:
    """Return the report in the hand of a house, addressed to the return path in full."""
    return _STYLES[style](about, reason)


def _fields(about: Correspondence, *, sender: str, subject: str, **more: str) -> dict[str, str]:
    """Return the header of a report, with what final delivery adds on top."""
    path = about.message.reverse_path
    date = formatdate(about.at)
    trace = f"from {about.reporter} (127.0.0.1)\r\n\tby mail.sender.test with ESMTP;\r\n\t{date}"
    return {
        **dict(zip(_ENVELOPE, ("<>", path), strict=True)),
        "Received": trace,
        "Date": date,
        "From": sender,
        "To": path,
        "Subject": subject,
        "Message-ID": f"<{about.name}@{about.reporter}>",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def _per_message(about: Correspondence, *more: tuple[str, str]) -> list[tuple[str, str]]:
    envid = about.message.envid
    original = [] if envid is None else [("Original-Envelope-Id", envid)]
    return [*original, ("Reporting-MTA", f"dns; {about.reporter}"), *more]


def _plain(about: Correspondence, reason: Reason) -> bytes:
    text = (
        f"This is the mail program at {about.reporter}.\r\n\r\n"
        "A message of yours was taken here and could not be delivered to one of its\r\n"
        "recipients. It comes back below.\r\n\r\n"
        f"<{about.recipient}>: {reason.text} (said by {about.reporter})\r\n"
    )
    status = fields_of(
        [
            _per_message(
                about,
                ("X-Plain-Queue-ID", about.name[:10].upper()),
                ("X-Plain-Sender", f"rfc822; {about.message.reverse_path}"),
                ("Arrival-Date", formatdate(about.message.at, localtime=False)),
            ),
            [
                ("Final-Recipient", f"rfc822; {about.recipient}"),
                ("Original-Recipient", f"rfc822;{about.recipient}"),
                ("Action", "failed"),
                ("Status", reason.status),
                ("Diagnostic-Code", f"x-plain; {reason.text}"),
            ],
        ]
    )
    return assemble(
        _fields(
            about,
            sender=f"MAILER-DAEMON@{about.reporter} (Mail Delivery System)",
            subject="Undelivered Mail Returned to Sender",
            Auto_Submitted="auto-replied",
        ),
        "multipart/report; report-type=delivery-status",
        f"{about.name}/{about.reporter}",
        [
            part("text/plain; charset=us-ascii", text.encode()),
            part("message/delivery-status", status),
            returned(about.message.content),
        ],
    )


def _transcript(about: Correspondence, reason: Reason) -> bytes:
    said = f"{reason.code} {reason.status} <{about.recipient}>... {reason.text}"
    text = (
        f"The original message was received at {formatdate(about.message.at)}\r\n"
        f"from [{about.source}]\r\n\r\n"
        "   ----- These addresses failed for good -----\r\n"
        f"<{about.recipient}>\r\n    (reason: {said})\r\n\r\n"
        f"   ----- What the session said -----\r\n>>> RCPT To:<{about.recipient}>\r\n<<< {said}\r\n"
    )
    status = fields_of(
        [
            _per_message(
                about,
                ("Received-From-MTA", f"DNS; [{about.source}]"),
                ("Arrival-Date", formatdate(about.message.at)),
            ),
            [
                ("Final-Recipient", f"RFC822; {about.recipient}"),
                ("Action", "failed"),
                ("Status", reason.status),
                ("Remote-MTA", f"DNS; inner.{about.reporter}"),
                (
                    "Diagnostic-Code",
                    f"SMTP; {reason.code}-{reason.status} refused here\r\n"
                    f"\t{reason.code} {reason.status} {reason.text}",
                ),
                ("Last-Attempt-Date", formatdate(about.at)),
            ],
        ]
    )
    return assemble(
        _fields(
            about,
            sender=f"Mail Delivery Subsystem <MAILER-DAEMON@{about.reporter}>",
            subject="Returned mail: see transcript for details",
            Auto_Submitted="auto-generated (failure)",
        ),
        "multipart/report; report-type=delivery-status",
        f"{about.name}.{int(about.at)}/{about.reporter}",
        [
            part("text/plain", text.encode()),
            part("message/delivery-status", status),
            returned(about.message.content, headers_only=True),
        ],
    )


def _office(about: Correspondence, reason: Reason) -> bytes:
    prose = f"Your message to {about.recipient} couldn\u2019t be delivered: {reason.text}."
    page = f"<html><body><p>{prose}</p></body></html>"
    inner = f"{about.name}_alternative"
    alternative = "".join(
        f"--{inner}\r\n"
        + part(
            kind, base64.encodebytes(text.encode()).replace(b"\n", b"\r\n"), encoding="base64"
        ).decode()
        for kind, text in (
            ('text/plain; charset="utf-8"', prose),
            ('text/html; charset="utf-8"', page),
        )
    )
    status = fields_of(
        [
            [
                ("Reporting-MTA", f"dns;{about.reporter}"),
                ("Received-From-MTA", f"dns;[{about.source}]"),
                ("Arrival-Date", formatdate(about.message.at)),
            ],
            [
                ("Original-Recipient", f"rfc822;{about.recipient}"),
                ("Final-Recipient", f"rfc822;{about.recipient}"),
                ("Action", "failed"),
                ("Status", reason.status),
                ("Diagnostic-Code", f"smtp;{reason.code} {reason.status} OFFICE; {reason.text}"),
            ],
        ]
    )
    kind = f'multipart/alternative; boundary="{inner}"'
    return assemble(
        _fields(
            about,
            sender=f"Office Mail <postmaster@{about.reporter}>",
            subject=f"Undeliverable: {_subject_of(about.message.content)}",
            Auto_Submitted="auto-replied",
            Content_Language="en-GB",
            X_Auto_Response_Suppress="All",
        ),
        "multipart/report; report-type=delivery-status",
        f"{about.name}_report",
        [
            part(kind, f"{alternative}--{inner}--\r\n".encode(), encoding="7bit"),
            part("message/delivery-status", status),
            returned(about.message.content),
        ],
    )


def _webmail(about: Correspondence, reason: Reason) -> bytes:
    text = (
        "** Message not delivered **\r\n\r\n"
        f"Your message wasn\u2019t delivered to {about.recipient} \u2013 {reason.text}.\r\n\r\n"
        f"The response was:\r\n\r\n{reason.code} {reason.status} {reason.text}\r\n"
    )
    status = fields_of(
        [
            [
                ("Reporting-MTA", f"dns; {about.reporter}"),
                ("Arrival-Date", formatdate(about.message.at)),
                ("X-Original-Message-ID", f"<{about.message.lab_id.strip('<>')}>"),
            ],
            [
                ("Final-Recipient", f"rfc822; {about.recipient}"),
                ("Action", "failed"),
                ("Status", reason.status),
                (
                    "Remote-MTA",
                    f"dns; {about.reporter}. ({about.source}, the server of the domain)",
                ),
                ("Diagnostic-Code", f"smtp; {reason.code} {reason.status} {reason.text}"),
                ("Last-Attempt-Date", formatdate(about.at)),
            ],
        ]
    )
    return assemble(
        _fields(
            about,
            sender=f"Mail Delivery Subsystem <mailer-daemon@{about.reporter}>",
            subject="Delivery Status Notification (Failure)",
            Auto_Submitted="auto-replied",
            X_Failed_Recipients=about.recipient,
        ),
        'multipart/report; report-type="delivery-status"',
        f"0000{about.name}",
        [
            part('text/plain; charset="UTF-8"', text.encode()),
            part("message/delivery-status", status),
            returned(about.message.content, headers_only=True),
        ],
    )


def _subject_of(content: bytes) -> str:
    for line in header_of(content).split(b"\r\n"):
        if line[:8].lower() == b"subject:":
            return line[8:].strip().decode("ascii", "replace").replace("\ufffd", "?")
    return "(no subject)"


_STYLES: dict[BounceStyle, Callable[[Correspondence, Reason], bytes]] = {
    BounceStyle.PLAIN: _plain,
    BounceStyle.TRANSCRIPT: _transcript,
    BounceStyle.OFFICE: _office,
    BounceStyle.WEBMAIL: _webmail,
}

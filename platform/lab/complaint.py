"""Write complaints as feedback loops send them.

Gives    compose_complaint() -> the whole message
Takes    the message as it was accepted, the recipient who complains, who reports
Raises   nothing
Follows  RFC 5965 (ARF), RFC 6650 (how loops use it)
"""

from email.utils import formatdate

from lab.content import header_of
from lab.dsn import Correspondence, assemble, fields_of, part, returned


def compose_complaint(about: Correspondence, *, to: str, redacts: bool) -> bytes:
    """Return the complaint. One that redacts gives the header alone, the recipient blotted out."""
    message, content = about.message, about.message.content
    if redacts:
        hidden = f"redacted@{about.recipient.rpartition('@')[2]}"
        content = header_of(content).replace(about.recipient.encode(), hidden.encode())
    fields = [
        ("Feedback-Type", "abuse"),
        ("User-Agent", f"Loop/{'2.1' if redacts else '1.0'}"),
        ("Version", "1"),
        ("Original-Mail-From", f"<{message.reverse_path}>"),
        ("Arrival-Date", formatdate(message.at)),
        ("Reporting-MTA", f"dns; {about.reporter}"),
        ("Source-IP", about.source),
        ("Reported-Domain", message.reverse_path.rpartition("@")[2] or "sender.test"),
    ]
    if not redacts:
        fields.insert(4, ("Original-Rcpt-To", f"<{about.recipient}>"))
    text = (
        f"This is an abuse report for a message that came from {about.source}\r\n"
        f"at {formatdate(message.at)}. One of our users called it unwanted.\r\n"
    )
    date = formatdate(about.at)
    return assemble(
        {
            "Return-Path": f"<feedback@{about.reporter}>",
            "Delivered-To": to,
            "Received": f"from {about.reporter} (127.0.0.1)\r\n\tby mail.sender.test;\r\n\t{date}",
            "Date": date,
            "From": f"Feedback Loop <feedback@{about.reporter}>",
            "To": to,
            "Subject": "FW: a complaint about a message of yours",
            "Message-ID": f"<{about.name}.fbl@{about.reporter}>",
        },
        "multipart/report; report-type=feedback-report",
        f"arf-{about.name}",
        [
            part('text/plain; charset="US-ASCII"', text.encode()),
            part("message/feedback-report", fields_of([fields])),
            returned(content, headers_only=redacts),
        ],
    )

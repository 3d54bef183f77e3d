"""Reports about messages of ours, as other hosts would send them.

Gives    delivered (an event of a message), bounce, complaint (octets of a report about it), RING
"""

from __future__ import annotations

from uuid import UUID

from mailcore import tokens
from mailcore.envelope import uuid7
from mailcore.events import Event, EventKind, event_id, recipient_hash
from mailcore.tokens import MessageToken

RING = {1: bytes(range(32))}
NOON_MS = 1_772_366_400_000


def delivered(number: int, *, account_id: int = 7) -> Event:
    """Return the event of a message that was delivered at noon."""
    message_id = uuid7(NOON_MS + number, number.to_bytes(10, "big"))
    recipient = f"r{number}@peer.test"
    return Event(
        event_id=event_id(
            message_id=message_id, recipient_no=0, claim_no=1, kind=EventKind.DELIVERED
        ),
        kind="delivered",
        occurred_ms=NOON_MS + number,
        message_id=str(message_id),
        recipient_no=0,
        claim_no=1,
        account_id=account_id,
        recipient=recipient,
        recipient_hash=recipient_hash(recipient),
    )


def _token(event: Event) -> str:
    return tokens.sign(MessageToken(UUID(event.message_id), event.recipient_no), ring=RING)


def bounce(event: Event, *, reply: str = "550 5.1.1 no such user", action: str = "failed") -> bytes:
    """Return a notification that a message failed late."""
    token = _token(event)
    return f"""\
Return-Path: <>
Delivered-To: b-{token}@bounces.sender.test
From: MAILER-DAEMON@mx.peer.test
To: b-{token}@bounces.sender.test
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary=B

--B
Content-Type: text/plain

Nobody by that name.
--B
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.peer.test

Final-Recipient: rfc822; {event.recipient}
Action: {action}
Status: 5.1.1
Diagnostic-Code: smtp; {reply}

--B
Content-Type: text/rfc822-headers

X-Postfleet-Token: {token}
Subject: Spring
--B--
""".replace("\n", "\r\n").encode()


def complaint(event: Event) -> bytes:
    """Return a feedback report of abuse."""
    return f"""\
From: feedback@peer.test
To: fbl@sender.test
Subject: complaint
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary=B

--B
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: Loop/1
Version: 1

--B
Content-Type: message/rfc822

X-Postfleet-Token: {_token(event)}
Subject: Spring

Hello.
--B--
""".replace("\n", "\r\n").encode()

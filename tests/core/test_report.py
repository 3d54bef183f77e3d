"""The report as a message: what programs and people read in it, by our own reader and Python's."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast
from uuid import UUID

import pytest

from mailcore.classify.dsn import Dsn, DsnAction, parse_dsn
from mailcore.classify.mime import read_part
from mailcore.dsn import DsnOrder, DsnReturn, Notify
from mailcore.events import Event
from mailcore.outcome import TlsNeed
from mailcore.reply import EnhancedStatus
from mailcore.report import build_report, report_of, submission_of, way_of
from mailcore.report.build import MAX_HEADER, MAX_RETURNED
from tests.support import builders
from tests.support.reporting import CONTENT, NOW, NOW_MS, event, facts

HOST = "mx.sender.test"
FULL = DsnOrder(returns=DsnReturn.FULL)
EIGHT_BITS = (
    b"From: news@sender.test\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    b"\r\nGr\xc3\xbc\xc3\x9fe\r\n"
)


def built(of: Event, content: bytes | None = CONTENT) -> bytes:
    report = report_of(of)
    assert report is not None
    way = way_of(report, builders.policy(), host=HOST)
    assert way is not None
    return build_report(report, way, content=content, host=HOST, now=NOW)


def parsed(octets: bytes) -> EmailMessage:
    """Return what Python makes of it; nothing in it may be odd to a strict reader."""
    message = message_from_bytes(octets, policy=policy.default)
    for part in message.walk():
        assert not part.defects
    return message


def read(octets: bytes) -> Dsn:
    found = parse_dsn(read_part(octets))
    assert found is not None
    assert found.is_standard
    return found


def fields(octets: bytes) -> dict[str, str]:
    """Return the fields of the report for programs, those of the message and the recipient."""
    status = cast(list[EmailMessage], list(parsed(octets).iter_parts()))[1]
    assert status.get_content_type() == "message/delivery-status"
    groups = cast(list[EmailMessage], status.get_payload())
    return {name: str(value) for group in groups for name, value in group.items()}


def kinds(octets: bytes) -> list[str]:
    return [part.get_content_type() for part in parsed(octets).iter_parts()]


def words(octets: bytes) -> str:
    text = cast(EmailMessage, next(parsed(octets).iter_parts())).get_content()
    return " ".join(str(text).split())


GOLDEN = b"""\
From: Mail Delivery System <mailer-daemon@sender.test>\r
To: <news@sender.test>\r
Subject: Undelivered: your mail to bob@example.org\r
Date: Mon, 04 May 2026 12:00:00 +0000\r
Message-ID: <report.01950000000070008000000000000001.0.failed@sender.test>\r
In-Reply-To: <m1@sender.test>\r
References: <m1@sender.test>\r
Auto-Submitted: auto-replied\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=delivery-status;\r
\tboundary="=_BOUNDARY"\r
\r
--=_BOUNDARY\r
Content-Type: text/plain; charset=us-ascii\r
Content-Transfer-Encoding: 7bit\r
Content-Description: Notification\r
\r
This is the mail system at mx.sender.test.\r
\r
Your message could not be delivered to this recipient:\r
\r
    bob@example.org\r
\r
The mail server mx.example.org refused it and said:\r
\r
    550 5.1.1 no such user here\r
\r
The header of the message is returned below.\r
\r
Message-ID: <m1@sender.test>\r
\r
--=_BOUNDARY\r
Content-Type: message/delivery-status\r
Content-Transfer-Encoding: 7bit\r
Content-Description: Delivery report\r
\r
Original-Envelope-Id: QQ 314=1\r
Reporting-MTA: dns; mx.sender.test\r
Arrival-Date: Mon, 04 May 2026 11:59:00 +0000\r
\r
Original-Recipient: rfc822; Bob+x@example.org\r
Final-Recipient: rfc822; bob@example.org\r
Action: failed\r
Status: 5.1.1\r
Remote-MTA: dns; mx.example.org\r
Diagnostic-Code: smtp; 550 5.1.1 no such user here\r
Last-Attempt-Date: Mon, 04 May 2026 12:00:00 +0000\r
\r
--=_BOUNDARY\r
Content-Type: text/rfc822-headers\r
Content-Transfer-Encoding: 7bit\r
Content-Description: Undelivered message\r
\r
From: news@sender.test\r
To: bob@example.org\r
Subject: Offers\r
Message-ID: <m1@sender.test>\r
MIME-Version: 1.0\r
\r
--=_BOUNDARY--\r
"""


def test_a_failure_is_told_as_it_always_was() -> None:
    order = DsnOrder(envid="QQ 314=1", orcpt="rfc822;Bob+2Bx@example.org")
    octets = built(event(dsn=facts(order)))
    boundary = parsed(octets).get_boundary() or ""
    assert octets.replace(boundary.encode(), b"=_BOUNDARY") == GOLDEN


def test_our_own_reader_understands_a_failure() -> None:
    dsn = read(built(event(dsn=facts(DsnOrder(orcpt="rfc822;b+2B@x.test")))))
    assert dsn.reporting_mta == HOST
    (recipient,) = dsn.recipients
    assert recipient.action is DsnAction.FAILED
    assert (recipient.final, recipient.original) == ("bob@example.org", "b+@x.test")
    assert recipient.status == EnhancedStatus(5, 1, 1)
    assert recipient.remote_mta == "mx.example.org"
    assert str(recipient.reply()) == "550 5.1.1 no such user here"


@pytest.mark.parametrize(
    ("of", "status", "said"),
    [
        (event("expired", code=451, enhanced="4.2.1", reply="451 4.2.1 busy"), "4.4.7", "lifetime"),
        (event("stopped", stage="", reply="their words"), "5.7.1", "on a stop list"),
        (event("purged", stage="", reply="554 purged by ann: oops"), "5.7.0", "An operator"),
        (event(enhanced="", code=550, reply="550 no"), "5.0.0", "refused it and said"),
        (event(enhanced="", code=451, reply="451 no"), "4.0.0", "refused it and said"),
        (event("late_bounced", stage="dsn"), "5.1.1", "reported later"),
        (event(dsn=facts(is_local=True)), "5.1.1", "because:"),
    ],
)
def test_each_way_to_fail_has_its_status_and_its_words(of: Event, status: str, said: str) -> None:
    octets = built(of)
    assert fields(octets)["Status"] == status
    assert fields(octets)["Action"] == "failed"
    assert said in words(octets)


def test_what_no_server_said_is_not_said_to_be_a_servers() -> None:
    local = event(mx_host="", dsn=facts(is_local=True), reply="554 5.4.4 no such domain")
    found = fields(built(local))
    assert found["Diagnostic-Code"] == "x-postfleet; 554 5.4.4 no such domain"
    assert "Remote-MTA" not in found


def test_what_an_operator_wrote_is_not_passed_on() -> None:
    for kind in ("purged", "stopped"):
        octets = built(event(kind, stage="", reply="554 5.7.0 purged by ann: they are crooks"))
        assert b"ann" not in octets
        assert "Diagnostic-Code" not in fields(octets)
        assert "Last-Attempt-Date" not in fields(octets)


def test_a_delay_says_until_when_it_is_tried() -> None:
    dsn = facts(DsnOrder(returns=DsnReturn.FULL, notify=frozenset({Notify.DELAY})))
    late = event("deferred", accepted_ms=NOW_MS - 15_000_000, code=451, dsn=dsn)
    octets = built(replace(late, enhanced="4.7.1", reply="451 4.7.1 greylisted"))
    found = fields(octets)
    assert (found["Action"], found["Status"]) == ("delayed", "4.7.1")
    assert found["Will-Retry-Until"] == "Tue, 05 May 2026 12:00:00 +0000"
    assert "need not send it again" in words(octets)
    assert kinds(octets)[2] == "text/rfc822-headers"  # RET is about failures alone
    assert fields(built(late))["Status"] == "4.0.0"  # a 5yz that was only deferred


def test_success_is_told_as_handed_over_and_not_as_delivered() -> None:
    dsn = facts(DsnOrder(notify=frozenset({Notify.SUCCESS})))
    octets = built(event("delivered", code=250, enhanced="2.1.5", reply="250 2.1.5 ok", dsn=dsn))
    assert (fields(octets)["Action"], fields(octets)["Status"]) == ("relayed", "2.1.5")
    assert read(octets).recipients[0].action is DsnAction.RELAYED


# ── what is returned ──────────────────────────────────────────────────────────────────────────


def test_the_whole_message_is_returned_to_who_asked_for_it() -> None:
    octets = built(event(dsn=facts(FULL)))
    assert kinds(octets) == ["text/plain", "message/delivery-status", "message/rfc822"]
    assert octets.count(CONTENT) == 1
    asked = DsnOrder(returns=DsnReturn.HEADERS)
    assert kinds(built(event(dsn=facts(asked))))[2] == "text/rfc822-headers"


def test_of_a_large_message_the_header_is_returned() -> None:
    large = CONTENT + b"x" * 70 + b"\r\n" * (MAX_RETURNED // 2)
    octets = built(event(dsn=facts(FULL)), large)
    assert kinds(octets)[2] == "text/rfc822-headers"
    assert len(octets) < 5000


def test_a_long_header_is_cut_between_two_fields() -> None:
    folded = b"X-Long: a\r\n" + b"\tbbbb\r\n" * MAX_HEADER
    octets = built(event(), b"From: news@sender.test\r\nTo: b@x.test\r\n" + folded + CONTENT)
    assert b"To: b@x.test\r\n\r\n--=_" in octets
    assert b"X-Long" not in octets


def test_content_that_is_gone_is_said_to_be_gone() -> None:
    octets = built(event(dsn=facts(FULL)), None)
    assert kinds(octets) == ["text/plain", "message/delivery-status"]
    assert "no longer kept" in words(octets)


@pytest.mark.parametrize("requires_tls", [False, True])
def test_a_report_of_mail_with_requiretls_goes_the_same_way_and_returns_the_header(
    requires_tls: bool,
) -> None:
    order = DsnOrder.of_mail(ret="FULL", envid="", requires_tls=requires_tls)
    about = event(dsn=facts(order))
    report = report_of(about)
    assert report is not None
    way = way_of(report, builders.policy(), host=HOST)
    assert way is not None
    mail = submission_of(report, way, message_id=UUID(int=1), content=built(about))
    assert mail.tls_need is (TlsNeed.REQUIRETLS if requires_tls else TlsNeed.POLICY)
    assert (b"The body." in mail.content) is not requires_tls


def test_eight_bits_are_returned_in_seven() -> None:
    octets = built(event(dsn=facts(FULL)), EIGHT_BITS)
    assert octets.isascii()
    assert kinds(octets)[2] == "message/rfc822"
    assert b"Gr=C3=BC=C3=9Fe" in octets


def test_a_message_that_cannot_be_converted_costs_the_report_its_body_alone() -> None:
    content = EIGHT_BITS.replace(b"text/plain; charset=utf-8", b"multipart/x; boundary*=idna''%C3b")
    assert kinds(built(event(dsn=facts(FULL)), content))[2] == "text/rfc822-headers"


def test_a_header_in_utf8_is_returned_as_one_that_may_be_encoded() -> None:
    content = "From: news@sender.test\r\nTo: <grün@x.test>\r\n\r\nhi\r\n".encode()
    octets = built(event(), content)
    assert octets.isascii()
    assert kinds(octets)[2] == "message/global-headers"
    assert kinds(built(event(dsn=facts(FULL)), content))[2] == "message/global-headers"


# ── addresses beyond ASCII, and texts that want to be headers ─────────────────────────────────


def test_a_recipient_in_utf8_is_written_in_ascii_for_a_sender_in_ascii() -> None:
    order = DsnOrder(orcpt="utf-8;g\\x{FC}n@x.test")
    octets = built(event(recipient="grün@example.org", dsn=facts(order)))
    found = fields(octets)
    assert octets.isascii()
    assert found["Final-Recipient"] == "utf-8; gr\\x{FC}n@example.org"
    assert found["Original-Recipient"] == "utf-8; g\\x{FC}n@x.test"
    assert read(octets).recipients[0].final == "grün@example.org"
    assert "grün@example.org" in words(octets)


def test_a_sender_in_utf8_gets_the_report_in_utf8() -> None:
    order = DsnOrder(orcpt="utf-8;g\\x{FC}n@x.test")
    dsn = facts(order, reverse_path="bücher@sender.test")
    octets = built(event(recipient="grün@example.org", dsn=dsn))
    assert "\r\nTo: <bücher@sender.test>\r\n".encode() in octets
    assert b"Content-Type: message/global-delivery-status\r\n" in octets
    assert "Final-Recipient: utf-8; grün@example.org".encode() in octets
    assert "Original-Recipient: utf-8; gün@x.test".encode() in octets
    assert read(octets).recipients[0].original == "gün@x.test"


def test_no_text_of_others_begins_a_field_of_ours() -> None:
    evil = "550 5.1.1 no\r\nAction: delivered\r\n\r\nBcc: all@x.test\u2028\x00 " + "long " * 400
    order = DsnOrder(orcpt="rfc822;a+0D+0ABcc:+20x", envid="a" * 100)
    octets = built(
        event(reply=evil, dsn=facts(order), message_id_header="<a@b>\r\nBcc: x", recipient="b@x.y")
    )
    assert fields(octets)["Action"] == "failed"
    assert b"\r\nBcc" not in octets
    assert b"\r\nAction: delivered" not in octets
    assert b"\0" not in octets
    assert max(map(len, octets.split(b"\r\n"))) < 998


def test_a_report_is_one_of_itself_however_often_it_is_made() -> None:
    assert built(event()) == built(event())
    assert built(event()) != built(event(recipient_no=1))

"""Delivery status notifications: of many MTAs, without a report, damaged, hostile."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.classify.dsn import DsnAction, parse_dsn, reply_of
from mailcore.classify.mime import Limits, decoded_words, header_block, read_part
from mailcore.reply import EnhancedStatus
from tests.core.reports import expected, read, samples, shown

SAMPLES = samples("dsn")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_each_sample_says_what_became_of_whom(path: Path) -> None:
    octets = path.read_bytes()
    assert shown(read(octets)) == expected(path)
    assert shown(read(octets.replace(b"\n", b"\r\n"))) == expected(path)


def test_the_corpus_is_wide_enough() -> None:
    told = [expected(path) for path in SAMPLES]
    assert len(told) >= 20
    actions = {one["action"] for each in told for one in each["recipients"]}
    assert actions == {action.value for action in DsnAction}
    assert {each["is_standard"] for each in told} == {True, False}
    assert {each["correlation"] for each in told} == {"return_path", "returned", "refused", "none"}


@pytest.mark.parametrize(
    ("diagnostic", "status", "reply"),
    [
        ("550 5.1.1 no such user", "", "550 5.1.1 no such user"),
        ("550-5.7.1 a 550-5.7.1 b 550 5.7.1 c", "", "550 5.7.1 a b c"),
        ("host mx.peer.test[192.0.2.30] said: 452 4.2.2 full", "5.0.0", "452 4.2.2 full"),
        ("554 refused", "5.7.1", "554 5.7.1 refused"),
        ("554 refused", "4.7.1", "554 refused"),
        ("unknown user", "5.1.1", "550 5.1.1 unknown user"),
        ("too slow", "4.4.1", "450 4.4.1 too slow"),
        ("192.0.2.55 does not answer on port 25", "", "550 192.0.2.55 does not answer on port 25"),
        ("mailbox full (#5.2.2)", "", "550 5.2.2 mailbox full (#5.2.2)"),
        ("", "2.0.0", "250 2.0.0"),
        ("", "", "550"),
    ],
)
def test_the_reply_that_is_quoted_is_found(diagnostic: str, status: str, reply: str) -> None:
    found, _ = EnhancedStatus.find(status)
    assert str(reply_of(diagnostic, found)) == reply


def test_a_notification_says_of_the_recipient_who_is_named_what_became_of_him() -> None:
    path = next(path for path in SAMPLES if path.stem.startswith("14"))
    told = read(path.read_bytes())
    assert told.bounced("Ann@peer.test") is not None
    assert told.bounced("bob@peer.test") is None  # delayed
    assert told.bounced("cat@peer.test") is None  # relayed
    assert told.bounced("team@lists.test") is None  # not all behind the list failed


def test_a_forwarders_single_failure_is_the_recipients() -> None:
    path = next(path for path in SAMPLES if path.stem.startswith("01"))
    told = read(path.read_bytes()).bounced("ann@forwarder.test")
    assert told is not None
    assert told.final == "ann@peer.test"


def test_what_nobody_reported_is_no_notification() -> None:
    assert parse_dsn(read_part(b"Subject: hello\r\n\r\nhow are you?\r\n")) is None
    assert parse_dsn(read_part(b"")) is None


# --- limits ---------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    head = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth)
    )
    return head + b"Content-Type: message/delivery-status\n\nAction: failed\nStatus: 5.1.1\n"


def test_a_report_is_found_a_few_levels_down_and_no_deeper() -> None:
    assert parse_dsn(read_part(nested(4))) is not None
    assert parse_dsn(read_part(nested(5000))) is None


def test_no_more_than_so_many_parts_are_read() -> None:
    part = b"--x\nContent-Type: text/plain\n\na\n"
    message = b"Content-Type: multipart/mixed; boundary=x\n\n" + part * 5000
    assert len(read_part(message).parts) == Limits().parts


def test_no_more_than_so_many_octets_and_fields_are_read() -> None:
    tiny = Limits(size_bytes=100, fields=3)
    assert len(read_part(b"a: 1\nb: 2\nc: 3\nd: 4\n\nbody", limits=tiny).fields) == 3
    assert len(read_part(b"a: 1\n\n" + b"x" * 1000, limits=tiny).body) == 94


HOSTILE = [
    b"Subject: " + b"=?utf-8?q?" * 20_000,
    b"Content-Type: multipart/mixed" + b"; a=b" * 40_000,
    b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--x\n" * 60_000,
    b"Return-Path: <>\nSubject: failure notice\n\n" + b"<a@b.test>" * 20_000,
    b"Return-Path: <>\nSubject: failure notice\n\n" + b"<a@b.test>:\n" * 20_000,
    b"Return-Path: <>\nSubject: failure notice\n\n" + b"550 5." * 40_000,
    b"Return-Path: <>\nSubject: failure notice\nContent-Type: text/html\n\n" + b"<a " * 80_000,
    b"Return-Path: <>\nSubject: failure notice\n\n" + b"b-" + b"a" * 250_000,
    b"X-Postfleet-Token: " + b"a" * 250_000,
    b"\n" * 250_000,
    b":" * 250_000,
    b"a:\n " * 60_000,
    b"Content-Type: message/delivery-status\n\n" + b"Action: failed\n" * 17_000,
    b"Content-Type: message/delivery-status\n\n" + b"junk\n\n" * 40_000,
    b"Content-Type: message/delivery-status\n\nStatus: 5.1.1\nDiagnostic-Code: " + b"smtp" * 60_000,
    b"Content-Type: message/feedback-report\n\n" + b"Original-Rcpt-To: a@b.test\n" * 9_000,
    b"Content-Type: message/rfc822\n\n" * 8_000,
]


@pytest.mark.parametrize("octets", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_message_is_read_to_its_end(octets: bytes) -> None:
    """A parser worse than linear would take minutes for each: the suite's timeout ends it."""
    assert read(octets).token is None


FRAGMENTS = [
    b"Content-Type: multipart/report; report-type=delivery-status; boundary=x\n",
    b"Content-Type: message/delivery-status\n",
    b"Content-Type: message/rfc822\n",
    b"Content-Transfer-Encoding: base64\n",
    b"Content-Transfer-Encoding: quoted-printable\n",
    b"\n--x\n",
    b"\n--x--\n",
    b"\n\n",
    b"Final-Recipient: rfc822; a@b.test\n",
    b"Action: failed\n",
    b"Status: 5.1.1\n",
    b"Diagnostic-Code: smtp; 550 5.1.1 no\n",
    b"Return-Path: <>\n",
    b"Subject: =?utf-8?B?4pyT?= failure notice\n",
    b"<a@b.test>:\n",
]
PIECES = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=40)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(PIECES)
def test_whatever_comes_is_read_without_a_fault(pieces: list[bytes]) -> None:
    told = read(b"".join(pieces))
    assert told.token is None
    if told.dsn is not None:
        assert told.dsn.recipients
        for one in told.dsn.recipients:
            assert 200 <= one.reply().code <= 599


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_a_sample_cut_or_altered_anywhere_is_read_without_a_fault(
    path: Path, data: st.DataObject
) -> None:
    octets = path.read_bytes()
    at = data.draw(st.integers(0, len(octets)))
    read(octets[:at])
    told = read(octets[:at] + data.draw(st.binary(max_size=8)) + octets[at:])
    assert told.kind.value


@given(st.binary(max_size=300))
def test_a_header_never_takes_more_than_there_is(octets: bytes) -> None:
    fields, at = header_block(octets)
    assert 0 <= at <= len(octets)
    assert all(name == name.lower() for name, _ in fields)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("=?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
        ("=?iso-8859-1?Q?Gr=FC=DFe_an?= =?utf-8?q?_Ann?=", "Grüße an Ann"),
        ("=?x-unknown?B?R3I=?=", "Gr"),
        ("=?punycode?Q?abc-?=", "abc-"),
        ("=?utf-8?B?!?=", ""),
        ("plain =? text", "plain =? text"),
    ],
)
def test_encoded_words_are_read_as_far_as_they_can_be(field: str, text: str) -> None:
    assert decoded_words(field) == text

"""Replies keep what the server said, find its enhanced status, and group what is alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.reply import EnhancedStatus, SmtpReply
from mailcore.transaction import ReplyReader
from mailcore.transaction.replies import MAX_LINE_BYTES, MAX_REPLY_LINES, reply_of


def test_the_enhanced_status_is_taken_out_of_every_line() -> None:
    reply = SmtpReply.of(550, ("5.1.1 no such user", "5.1.1 here"))
    assert reply.enhanced == EnhancedStatus(5, 1, 1)
    assert reply.text == "no such user here"
    assert str(reply) == "550 5.1.1 no such user here"


def test_an_enhanced_status_of_another_class_is_text() -> None:
    reply = SmtpReply.of(450, ("5.1.1 odd",))
    assert reply.enhanced is None
    assert str(reply) == "450 5.1.1 odd"


@pytest.mark.parametrize("text", ["5.1", "6.1.1 x", "5.1.1x", "x 5.1.1", "5.1.1234 x", ""])
def test_what_is_no_enhanced_status_stays(text: str) -> None:
    assert EnhancedStatus.find(text) == (None, text)


def test_a_reply_of_our_own_says_so() -> None:
    reply = SmtpReply.local(451, "4.4.1", "no route")
    assert reply.is_local
    assert reply.is_transient
    assert not reply.is_positive
    assert not reply.is_permanent
    assert str(reply) == "451 4.4.1 no route"
    assert not SmtpReply.of(250, ("ok",)).is_local


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("5.1.1 <a.b@one.test> unknown", "5.1.1 <c@two.test> unknown"),
        ("4.7.1 greylisted 192.0.2.7 for 300 s", "4.7.1 greylisted 198.51.100.9 for 300 s"),
        ("2.0.0 queued as 4XyZ12abCd", "2.0.0 queued as 9QwErty77"),
        ("see https://help.test/a?x=1 now", "see https://help.test/b?x=2 now"),
        ("from 2001:db8:0:1::5 refused", "from 2001:db8:0:2::9 refused"),
    ],
)
def test_replies_that_differ_in_names_and_numbers_are_alike(first: str, second: str) -> None:
    assert SmtpReply.of(550, (first,)).normalised() == SmtpReply.of(550, (second,)).normalised()


def test_a_normalised_reply_is_short() -> None:
    assert len(SmtpReply.of(550, ("word " * 100,)).normalised()) <= 200


# ── from bytes ────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(1, 7), max_size=40))
def test_replies_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    wire = b"250-first\r\n250-2.1.0 second\r\n250 third\r\n354\r\n421 4.3.2 bye\r\n"
    reader, got, at = ReplyReader(), [], 0
    for cut in [*cuts, len(wire)]:
        got += reader.feed(wire[at : at + cut])
        at += cut
    assert got == [
        (250, (b"first", b"2.1.0 second", b"third")),
        (354, (b"",)),
        (421, (b"4.3.2 bye",)),
    ]
    assert reader.fault == ""


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_named_as_a_fault(noise: bytes) -> None:
    reader = ReplyReader()
    for code, lines in reader.feed(noise + b"\r\n"):
        assert 200 <= code <= 599
        assert str(reply_of(code, lines)).isprintable()
    again = reader.feed(b"250 ok\r\n")
    assert again == [] or not reader.fault


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"hello\r\n", "no SMTP reply"),
        (b"\r\n", "no SMTP reply"),
        (b"199 x\r\n", "no SMTP reply"),
        (b"600 x\r\n", "no SMTP reply"),
        (b"2500 x\r\n", "no SMTP reply"),
        (b"250-a\r\n550 b\r\n", "two codes"),
        (b"250-x\r\n" * (MAX_REPLY_LINES + 1), "more than"),
        (b"250 " + b"x" * MAX_LINE_BYTES + b"\r\n", "longer than"),
        (b"x" * (MAX_LINE_BYTES + 1), "longer than"),
    ],
)
def test_what_is_no_reply_is_a_fault_with_a_reason(wire: bytes, reason: str) -> None:
    reader = ReplyReader()
    assert reader.feed(wire) == []
    assert reason in reader.fault


def test_replies_before_a_fault_are_kept() -> None:
    reader = ReplyReader()
    assert reader.feed(b"250 ok\r\nnonsense\r\n250 ok\r\n") == [(250, (b"ok",))]
    assert reader.fault


def test_line_ends_without_cr_are_borne() -> None:
    assert ReplyReader().feed(b"250-a\n250 b\n220\n") == [(250, (b"a", b"b")), (220, (b"",))]


def test_text_that_is_not_ascii_becomes_safe_to_store() -> None:
    reply = reply_of(550, (b"5.1.1 nicht gef\xfcnden \x00\x1b[31m\tK\xc3\xb6ln",))
    assert reply.text == "nicht gef\ufffdnden \ufffd\ufffd[31m Köln"
    assert reply.enhanced == EnhancedStatus(5, 1, 1)

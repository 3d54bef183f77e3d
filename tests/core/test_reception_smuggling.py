"""No way to write an end of data but one: nothing splits a message, and nobody is left waiting."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.reception.content import find_fault
from tests.support.reception import MESSAGE, TO_DATA, opened
from tests.support.smuggling import ENDS

SMUGGLED = (
    b"MAIL FROM:<evil@shop.test>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\n"
    b"From: x\r\n\r\n\r\n.\r\n"
)


@pytest.mark.parametrize("end", ENDS)
def test_a_wrong_end_of_data_ends_the_session_and_takes_nothing(end: bytes) -> None:
    session = opened()
    session.say(TO_DATA)
    answer = session.say(MESSAGE.removesuffix(b"\r\n") + end + SMUGGLED)
    assert answer.startswith("554 5.6.0 ")
    assert answer.endswith("lines end in CRLF; closing\r\n")
    assert answer.count("\r\n") == 1
    assert session.is_closed
    assert not session.letters


@pytest.mark.parametrize("end", [e for e in ENDS if not e.endswith(b"\r")])
def test_a_client_that_waits_behind_a_wrong_end_hears_at_once(end: bytes) -> None:
    session = opened()
    session.say(TO_DATA)
    assert session.say(b"From: a@shop.test\r\n\r\nhello" + end).startswith("554 5.6.0 ")


@pytest.mark.parametrize("end", ENDS)
def test_a_wrong_end_is_found_wherever_the_network_cuts(end: bytes) -> None:
    octets = b"From: a@shop.test\r\n\r\nhello" + end + b"QUIT\r\n"
    for cut in range(len(octets)):
        session = opened()
        session.say(TO_DATA)
        assert session.say(octets, cuts=[cut]).startswith("554 5.6.0 ")
        assert not session.letters


@pytest.mark.parametrize("end", ENDS)
def test_in_a_chunk_a_wrong_line_end_costs_the_message_and_not_the_session(end: bytes) -> None:
    session = opened()
    session.say(b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<b@example.com>\r\n")
    content = b"From: a@shop.test\r\n\r\nhello" + end
    assert session.codes(b"BDAT %d LAST\r\n" % len(content) + content) == ["554 5.6.0"]
    assert session.codes(b"NOOP\r\n") == ["250 2.0.0"]
    assert not session.letters


@pytest.mark.parametrize(
    "line", [b"NOOP\n", b"NOOP\rQUIT\r\n", b"NO\x00OP\r\n", b"\n", b"NOOP\r\r\n"]
)
def test_a_command_that_reads_as_two_ends_the_session(line: bytes) -> None:
    for cut in range(len(line)):
        session = opened()
        assert session.say(line, cuts=[cut]).startswith("500 5.5.2 CR, LF or NUL")
        assert session.is_closed


def test_commands_pushed_behind_a_refused_data_are_not_obeyed() -> None:
    session = opened()
    session.say(b"MAIL FROM:<a@shop.test>\r\n")
    assert session.codes(b"DATA\r\n" + SMUGGLED) == ["503 5.5.1"]
    assert session.is_closed


def test_nothing_said_in_clear_survives_the_handshake() -> None:
    session = opened(own=None, can_start_tls=True)
    assert session.say(b"STARTTLS\r\n").startswith("220 ")
    session.say(b"EHLO evil.test\r\nMAIL FROM:<evil@shop.test>\r\n")
    session.do(session.dialogue.secured())
    assert session.codes(b"MAIL FROM:<a@shop.test>\r\n") == ["503 5.5.1"]
    assert session.say(b"EHLO client.test\r\n").startswith("250-mx.shop.test\r\n")


def reference(octets: bytes) -> bytes | None:
    """Read content as RFC 5321 tells: None where it never ends, b"" where it may not be read."""
    at, line_start = 0, True
    message = bytearray()
    while at < len(octets):
        if line_start and octets[at : at + 3] == b".\r\n":
            return bytes(message) or b"\r"
        if line_start and octets[at : at + 1] == b".":
            at += 1
        one = octets[at : at + 1]
        if one in (b"\n", b"\0") or (one == b"\r" and octets[at + 1 : at + 2] not in (b"\n", b"")):
            return b""
        if octets[at : at + 2] == b"\r\n":
            message += b"\r\n"
            at, line_start = at + 2, True
            continue
        message += one
        at, line_start = at + 1, False
    return None


@pytest.mark.parametrize("length", range(1, 7))
def test_every_short_content_is_read_as_the_rfc_says(length: int) -> None:
    for letters in itertools.product((b"\r", b"\n", b".", b"x"), repeat=length):
        octets = b"".join(letters)
        session = opened()
        session.say(TO_DATA)
        answer = session.say(octets + b"\r\n.\r\n")
        expected = reference(octets + b"\r\n.\r\n")
        if expected == b"":
            assert answer.startswith("554 5.6.0 "), octets
            assert not session.letters
        else:
            content = session.letters[0].content
            assert content == (b"" if expected == b"\r" else expected), octets


@given(
    st.binary(max_size=40).map(lambda b: b.translate(bytes(b"\r\n\0ab"[i % 5] for i in range(256))))
)
def test_a_fault_is_found_exactly_where_there_is_one(octets: bytes) -> None:
    rest = octets.replace(b"\r\n", b"")
    assert bool(find_fault(octets)) == any(one in rest for one in (b"\r", b"\n", b"\0"))

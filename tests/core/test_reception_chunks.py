"""Content in chunks: what is missing of it is never sent, and it does not come for ever."""

from __future__ import annotations

import pytest

from mailcore.reception import Gauge, Identity, Limits
from tests.support.reception import MESSAGE, TO_DATA, opened

MAIL = b"MAIL FROM:<a@shop.test>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"


def test_behind_a_refused_chunk_nothing_is_taken_for_the_whole_message() -> None:
    session = opened()
    assert session.codes(MAIL + b"BDAT 5\r\nabcde") == ["250 2.1.0", "554 5.5.1"]
    assert session.codes(RCPT) == ["503 5.5.1"]
    assert session.codes(b"DATA\r\n") == ["554 5.5.1"]
    assert session.codes(b"RSET\r\n" + TO_DATA)[-1].startswith("354")
    session.say(MESSAGE + b".\r\n")
    assert [letter.content for letter in session.letters] == [MESSAGE]


def test_behind_a_chunk_that_is_too_large_data_is_refused_for_its_size() -> None:
    session = opened(limits=Limits(message_bytes=1024))
    session.say(MAIL + RCPT)
    assert session.codes(b"BDAT 2000\r\n" + b"x" * 2000) == ["552 5.3.4"]
    assert session.codes(b"DATA\r\n") == ["552 5.3.4"]


def test_between_two_chunks_the_time_of_the_message_runs_on() -> None:
    session = opened()
    session.say(MAIL + RCPT)
    assert not session.dialogue.is_in_content
    for octets in (b"BDAT 3\r\n", b"abc", b"BDAT 0\r\n", b"NOOP\r\n"):
        session.say(octets)
        assert session.dialogue.is_in_content
    session.say(b"BDAT 2 LAST\r\n\r\n")
    assert not session.dialogue.is_in_content


def test_one_account_does_not_hold_the_memory_of_all() -> None:
    gauge = Gauge(1000, share=500)
    ours = [opened(gauge=gauge, own=Identity(1)) for _ in range(2)]
    theirs = opened(gauge=gauge, own=Identity(2))
    for session in (*ours, theirs):
        session.codes(TO_DATA)
    ours[0].say(b"x" * 400)
    assert ours[1].codes(b"y" * 400 + b"\r\n.\r\n") == ["452 4.3.1"]
    assert theirs.codes(b"z" * 400 + b"\r\n.\r\n") == ["250 2.0.0"]
    rest = gauge.share - gauge.held
    gauge.take(rest, 1)
    assert ours[1].codes(TO_DATA)[-1] == "452 4.3.1"
    gauge.give_back(rest, 1)
    ours[0].dialogue.abandon()
    assert gauge.held == 0
    assert ours[1].codes(TO_DATA)[-1].startswith("354")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("R\u017fET", "500 5.5.2"),
        ("BDAT 3 LA\u017fT", "501 5.5.4"),
        ("MA\u0131L FROM:<a@shop.test>", "500 5.5.2"),
    ],
)
def test_letters_beyond_ascii_are_no_letters_of_a_command(line: str, answer: str) -> None:
    session = opened()
    session.say(MAIL + RCPT)
    assert session.codes(f"{line}\r\n".encode()) == [answer]

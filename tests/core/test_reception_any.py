"""Whatever is sent and however it is cut: what was accepted is what was sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailcore.reception import Limits
from tests.support.reception import TO_DATA, Session, opened

CUTS = st.lists(st.integers(0, 400), max_size=12)
LINES = st.lists(
    st.text(st.sampled_from(".ab \tQUIT"), max_size=9).map(str.encode) | st.just(b"\xc3\xa9"),
    max_size=20,
)
WORDS = [
    b"EHLO x", b"NOOP", b"RSET", b"MAIL FROM:<a@shop.test>", b"RCPT TO:<b@example.com>", b"DATA",
    b"BDAT 3", b"BDAT 0 LAST", b"QUIT", b"AUTH PLAIN", b".", b"abc", b"STARTTLS", b"",
]  # fmt: skip


def stuffed(content: bytes) -> bytes:
    lines = content.split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)


@given(LINES, CUTS)
def test_data_arrives_as_it_was_sent(lines: list[bytes], cuts: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    session = opened()
    session.say(TO_DATA)
    session.say(stuffed(content) + b".\r\n", cuts=cuts)
    assert [letter.content for letter in session.letters] == [content]
    assert session.gauge.held == 0


@given(st.lists(LINES, min_size=1, max_size=4), CUTS)
def test_chunks_arrive_as_they_were_sent(parts: list[list[bytes]], cuts: list[int]) -> None:
    chunks = [b"".join(line + b"\r\n" for line in lines) for lines in parts]
    session = opened()
    octets = b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<b@example.com>\r\n"
    for chunk in chunks[:-1]:
        octets += b"BDAT %d\r\n" % len(chunk) + chunk
    octets += b"BDAT %d LAST\r\n" % len(chunks[-1]) + chunks[-1] + b"NOOP\r\n"
    session.say(octets, cuts=cuts)
    assert [letter.content for letter in session.letters] == [b"".join(chunks)]
    assert session.heard.endswith(b"250 2.0.0 queued as 1\r\n250 2.0.0 ok\r\n")


@given(st.lists(st.sampled_from(WORDS), max_size=12), CUTS)
def test_the_same_groups_in_any_pieces_get_the_same_answers(
    words: list[bytes], cuts: list[int]
) -> None:
    """A group ends where a client must wait for an answer (RFC 2920 §3.1)."""
    whole, pieces = opened(), opened()
    group = b""
    for word in words:
        group += word + b"\r\n"
        if word.split(b" ")[0] in (b"EHLO", b"DATA", b"AUTH", b"STARTTLS", b"QUIT"):
            assert whole.say(group) == pieces.say(group, cuts=cuts)
            group = b""
    assert whole.say(group) == pieces.say(group, cuts=cuts)
    assert whole.is_closed == pieces.is_closed
    assert whole.letters == pieces.letters


@given(st.binary(max_size=3000), CUTS, st.booleans())
def test_no_noise_breaks_a_session_or_holds_its_memory(
    noise: bytes, cuts: list[int], is_content: bool
) -> None:
    session = opened(limits=Limits(message_bytes=1024, command_bytes=64), reply=None)
    if is_content:
        session.say(TO_DATA)
    session.say(noise, cuts=cuts)
    assert session.dialogue.buffered <= 64 or session.letters
    session.dialogue.abandon()
    assert session.gauge.held == 0 or session.letters


@given(st.integers(1, 300), CUTS)
def test_a_line_is_too_long_at_the_same_octet_however_it_is_cut(
    length: int, cuts: list[int]
) -> None:
    session = Session(limits=Limits(command_bytes=100))
    answer = session.say(b"N" * length + b"\r\n", cuts=cuts)
    expected = "the line is too long" if length > 98 else "there is no such command"
    assert answer == f"500 5.5.2 {expected}\r\n"

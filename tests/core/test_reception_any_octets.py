"""Any octets at the door: what is queued is what was sent, as repair states it, or is refused.

The policy: CR and LF stand as CRLF alone and NUL not at all, or nothing is taken. All other octets
arrive, whatever dots, long lines or commands they look like.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from mailcore.reception.content import find_fault
from mailcore.render import repair
from tests.support.reception import TO_DATA, opened

HEAD = b"From: a@shop.test\r\nContent-Type: application/octet-stream\r\n\r\n"
CUTS = st.lists(st.integers(0, 4000), max_size=12)
PIECES = [
    b"\r\n", b"\r\n.\r\n", b"\r\n..", b".", b"\r", b"\n", b"\r\r\n", b"\0", b"x" * 998, b"x" * 1500,
    b"\xff\xfe", "é".encode(), b"QUIT\r\n", b"BDAT 3 LAST\r\n", b"--b\r\n", b" \t",
]  # fmt: skip
BODIES = (
    st.binary(max_size=400)
    | st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=12).map(b"".join)
    | st.lists(st.sampled_from([b"\r\n", b".", b"a", b"x" * 999]), max_size=20).map(b"".join)
)


def stuffed(content: bytes) -> bytes:
    lines = content.split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)


def queued(content: bytes) -> bytes:
    return repair(content, message_id=UUID(int=1), date=datetime(2026, 3, 1, tzinfo=UTC)).content


@given(BODIES, CUTS)
@example(b".\r\n..\r\n.x", [])
@example(b"\r\n.\n.\r\n", [3])
def test_any_octets_by_data_arrive_or_end_the_session(body: bytes, cuts: list[int]) -> None:
    content = HEAD + body + b"\r\n"
    session = opened()
    session.say(TO_DATA)
    session.say(stuffed(content) + b".\r\n", cuts=cuts)
    if find_fault(content):
        assert session.letters == []
        assert session.is_closed
        assert b"\r\n554 5.6.0 " in session.heard
    else:
        assert [letter.content for letter in session.letters] == [content]
    assert session.gauge.held == 0


@given(BODIES, st.integers(0, 500), CUTS)
def test_any_octets_by_chunks_arrive_or_cost_that_message(
    body: bytes, cut: int, cuts: list[int]
) -> None:
    content = HEAD + body
    first, last = content[:cut], content[cut:]
    session = opened()
    octets = TO_DATA.removesuffix(b"DATA\r\n") + b"BDAT %d\r\n" % len(first) + first
    octets += b"BDAT %d LAST\r\n" % len(last) + last + b"NOOP\r\n"
    session.say(octets, cuts=cuts)
    assert [letter.content for letter in session.letters] == [content] * (not find_fault(content))
    assert session.heard.endswith(b"250 2.0.0 ok\r\n")
    assert session.gauge.held == 0


@given(BODIES)
def test_what_was_taken_is_queued_and_reads_the_same_where_a_line_is_long(body: bytes) -> None:
    content = HEAD + body
    if find_fault(content):
        return
    end = b"" if not body or body.endswith(b"\r\n") else b"\r\n"
    sent = queued(content)
    if max(map(len, body.split(b"\r\n"))) <= 998:
        assert sent.endswith(b"\r\n\r\n" + body + end)
    else:
        assert max(map(len, sent.split(b"\r\n"))) <= 998
        assert message_from_bytes(sent).get_payload(decode=True) == body + end
    assert queued(sent) == sent

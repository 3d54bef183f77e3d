"""A message in eight bits reads the same in seven."""

from __future__ import annotations

from base64 import encodebytes
from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.errors import SubmissionRefused
from mailcore.render import to_7bit

HEAD = b"From: a@one.test\r\nMIME-Version: 1.0\r\n"
PLAIN = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
# Where a line is broken, its rest must not be a delimiter.
FRAGMENTS = [
    b"w" * 75 + b"--b", b"--b", b"--b--", b"--b\xc3\xa9", b"\r\n", b"=", b"=3D", b" ", b"x" * 100,
    b"\xff", "é".encode(), b".",
]  # fmt: skip
TYPES = [b"text/plain", b"text/html; charset=utf-8", b"application/pdf"]
ENCODINGS = [b"8bit", b"binary", b"quoted-printable", b"base64"]


def leaves(content: bytes) -> list[bytes]:
    """Return the decoded leaves, as a reader of mail sees them."""
    message = message_from_bytes(content, policy=policy.SMTP)
    parts = [part for part in message.walk() if not part.is_multipart()]
    return [bytes(part.get_payload(decode=True)) for part in parts]


def test_what_is_in_seven_bits_is_left_alone() -> None:
    content = HEAD + b"\r\nhello=20\r\n"
    assert to_7bit(content) is content


def test_text_becomes_quoted_printable() -> None:
    content = HEAD + PLAIN + "Grüße=\r\n.\r\nzwei \r\n".encode()
    converted = to_7bit(content)
    assert b"Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe=3D\r\n" in converted
    assert leaves(converted) == ["Grüße=\r\n.\r\nzwei \r\n".encode()]
    assert b"8bit" not in converted


def test_the_parts_that_need_it_are_converted_and_the_container_says_7bit() -> None:
    content = (
        HEAD
        + b'Content-Type: multipart/mixed; boundary="b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
        + "Vorspänn\r\n--b\r\n".encode()
        + PLAIN
        + "ä\r\n--b\r\nContent-Type: text/plain\r\n\r\nplain=3D\r\n".encode()
        + b"--b\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xff\xfe\x80"
        + b"\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: \xc3\xa4\r\n"
        + PLAIN
        + "inner ö\r\n".encode()
        + b"\r\n--b--\r\nafter \xe2\x82\xac\r\n"
    )
    converted = to_7bit(content)
    assert converted.isascii()
    assert leaves(converted) == ["ä".encode(), b"plain=3D", b"\xff\xfe\x80", "inner ö\r\n".encode()]
    assert converted.count(b"Content-Transfer-Encoding: 7bit") == 2
    inner = message_from_bytes(converted, policy=policy.SMTP).get_payload()[3]  # type: ignore[index]
    assert inner.get_payload()[0]["Subject"] == "ä"  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (
            HEAD + b'Content-Type: multipart/signed; boundary="b"\r\n\r\n--b\r\n\r\n\xc3\xa4\r\n',
            "8bit_sealed",
        ),
        (b"From: \xc3\xa4@one.test\r\n\r\nx\r\n", "8bit_header"),
        (HEAD + b"Content-Transfer-Encoding: x-uuencode\r\n\r\n\xc3\xa4\r\n", "8bit_encoded"),
        (HEAD + b"Content-Transfer-Encoding: base64\r\n\r\nm\xc3\xa4rz.\r\n", "8bit_encoded"),
        *(
            (
                HEAD
                + b"Content-Type: multipart/mixed; boundary*=%s''%%C3%%BCb\r\n\r\n" % charset
                + b"--b\r\n\r\n\xc3\xa4\r\n",
                "content_type",
            )
            for charset in (b"idna", b"punycode", b"undefined")
        ),
    ],
)
def test_what_converting_would_break_is_refused(content: bytes, code: str) -> None:
    with pytest.raises(SubmissionRefused) as caught:
        to_7bit(content)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_what_is_encoded_already_is_not_encoded_again() -> None:
    printable = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    text = to_7bit(HEAD + printable + b'<a href=3D"x">caf=C3=A9</a> \xc2\xa9\r\n')
    assert text == HEAD + printable + b'<a href=3D"x">caf=C3=A9</a> =C2=A9\r\n'
    pdf = HEAD + b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert to_7bit(pdf + b"JVBE\xa0Ri0x\r\nLjQK\r\n\xa0\r\n") == pdf + b"JVBERi0xLjQK\r\n"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(TYPES),
            st.sampled_from(ENCODINGS),
            st.lists(st.sampled_from(FRAGMENTS), max_size=8).map(b"".join),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_parts_stay_as_many_and_read_the_same(parts: list[tuple[bytes, bytes, bytes]]) -> None:
    parts = [
        (kind, word, encodebytes(text) + b"\xff" if word == b"base64" else text)
        for kind, word, text in parts
    ]
    body = b"".join(
        b"--b\r\nContent-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s\r\n" % part
        for part in parts
    )
    content = HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + body + b"--b--\r\n"
    try:
        converted = to_7bit(content)
    except SubmissionRefused:
        return  # what stands behind a delimiter among the fragments is no header
    assert converted.isascii()
    assert leaves(converted) == leaves(content)
    assert max(map(len, converted.split(b"\r\n"))) <= 998


@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=120), max_size=8))
def test_any_text_survives(lines: list[str]) -> None:
    body = "".join(f"{line}\r\n" for line in lines).encode()
    converted = to_7bit(HEAD + PLAIN + body)
    assert leaves(converted) == [body]
    assert converted.isascii()
    assert max(map(len, converted.split(b"\r\n"))) <= 998

"""Texts travel in the encoding an ISP wants, and read the same as before."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.policy.words import Encoding
from mailcore.render import reencode, to_7bit
from mailcore.render.build import base64_lines, quoted_printable

QP, BASE64, EIGHT_BIT, KEPT = Encoding
HEAD = b"From: a@one.test\r\nMIME-Version: 1.0\r\n"
UMLAUTS = "Grüße, 東京 \t\r\n.\r\n\r\nzwei=\r\n".encode()


def encoded(
    content: bytes, overall: Encoding, html: Encoding = KEPT, text: Encoding = KEPT
) -> bytes:
    """Encode what an ISP wants encoded."""
    return reencode(content, overall=overall, html=html, text=text)


def part(data: bytes, encoding: Encoding, kind: bytes = b"text/plain; charset=utf-8") -> bytes:
    """Return an entity with this text in this encoding."""
    body = {QP: quoted_printable, BASE64: base64_lines}.get(encoding, bytes)(data)
    word = b"7bit" if encoding is KEPT else encoding.value.encode()
    named = b"Content-Type: " + kind + b"\r\nContent-Transfer-Encoding: " + word
    return named + b"\r\n\r\n" + body


def mixed(*parts: bytes, kind: bytes = b"mixed", more: bytes = b"") -> bytes:
    """Return a whole message of these parts."""
    inner = b"".join(b"--=_b\r\n" + each + b"\r\n" for each in parts)
    typed = b"Content-Type: multipart/" + kind + b'; boundary="=_b"\r\n' + more
    return HEAD + typed + b"\r\npreamble\r\n" + inner + b"--=_b--\r\nepilogue\r\n"


def read(content: bytes) -> list[tuple[str, str | None, bytes]]:
    """Return type, charset and octets of each leaf, as a reader of mail sees them."""
    message = message_from_bytes(content, policy=policy.SMTP)
    return [
        (each.get_content_type(), each.get_content_charset(), bytes(each.get_payload(decode=True)))
        for each in message.walk()
        if not each.is_multipart()
    ]


def words(content: bytes) -> list[str]:
    """Return the encodings that are named, in order."""
    message: EmailMessage = message_from_bytes(content, policy=policy.SMTP)
    return [str(each["Content-Transfer-Encoding"]) for each in message.walk()]


def longest(content: bytes) -> int:
    return max(map(len, content.split(b"\r\n")))


# ── what is encoded ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("given_as", "wanted"), [*product((QP, BASE64, EIGHT_BIT), repeat=2)])
def test_a_text_reads_the_same_in_any_encoding(given_as: Encoding, wanted: Encoding) -> None:
    content = HEAD + part(UMLAUTS, given_as)
    if given_as is BASE64:
        content += b"\r\n"
    result = encoded(content, wanted)
    assert read(result) == [("text/plain", "utf-8", UMLAUTS)]
    assert words(result) == [wanted.value]
    assert result.startswith(HEAD)
    assert result.endswith(b"\r\n")


def test_each_kind_of_text_goes_as_is_said_of_it() -> None:
    content = mixed(
        part(UMLAUTS, QP),
        part(b"<p>hello</p>", QP, b"text/html"),
        part(UMLAUTS, QP, b"text/calendar; charset=utf-8"),
        kind=b"alternative",
    )
    result = encoded(content, BASE64, html=EIGHT_BIT)
    assert words(result) == ["None", "base64", "7bit", "base64"]
    assert read(result) == read(content)


def test_nothing_said_changes_nothing_and_costs_nothing() -> None:
    content = mixed(part(UMLAUTS, QP), part(UMLAUTS, EIGHT_BIT))
    assert encoded(content, KEPT) is content
    assert encoded(content, KEPT, html=QP) is content


@pytest.mark.parametrize("wanted", [QP, BASE64, EIGHT_BIT])
def test_what_is_so_encoded_already_is_left_alone_to_the_octet(wanted: Encoding) -> None:
    odd = mixed(part(UMLAUTS, wanted), part(b"<p>x</p>\r\n", wanted, b"text/html"))
    odd = odd.replace(b"Content-Transfer", b"cOntent-TRANSFER").replace(b"preamble", b"pre\r\n")
    assert encoded(odd, wanted) is odd


def test_plain_ascii_is_8bit_enough() -> None:
    for content in (HEAD + b"\r\nhello\r\n", HEAD + part(b"hello\r\n", KEPT)):
        assert encoded(content, EIGHT_BIT) is content
        assert words(encoded(content, QP)) == ["quoted-printable"]


def test_a_text_with_long_lines_or_bare_line_ends_goes_as_quoted_printable_all_the_same() -> None:
    for text in (b"x" * 999 + b"\r\n", b"one\ntwo", b"a\rb\r\n", "ü\0".encode()):
        result = encoded(mixed(part(text, BASE64)), EIGHT_BIT)
        assert words(result)[1] == "quoted-printable"
        assert read(result)[0][2] == text
        assert longest(result) <= 76
    fitting = mixed(part(b"x" * 998 + b"\r\ny", BASE64))
    assert words(encoded(fitting, EIGHT_BIT))[1] == "7bit"


def test_a_container_says_what_is_in_it() -> None:
    inner = b'Content-Type: multipart/alternative; boundary="i"\r\n\r\n--i\r\n'
    nested = mixed(inner + part(UMLAUTS, QP) + b"\r\n--i--")
    result = encoded(nested, EIGHT_BIT)
    assert words(result) == ["8bit", "8bit", "8bit"]
    back = encoded(result, QP)
    assert words(back) == ["7bit", "7bit", "quoted-printable"]
    assert read(back) == read(nested)


def test_a_line_of_a_text_never_becomes_a_boundary() -> None:
    text = b"first\r\n--=_b\r\n--=_b--\r\nlast"
    content = mixed(part(text, BASE64), part(b"second", QP))
    for wanted in (QP, EIGHT_BIT):
        result = encoded(content, wanted)
        assert [octets for _, _, octets in read(result)] == [text, b"second"]


def test_a_text_without_a_last_line_end_gets_none_but_in_eight_bits() -> None:
    content = HEAD + part(b"no end", BASE64) + b"\r\n"
    assert read(encoded(content, QP))[0][2] == b"no end"
    assert read(encoded(content, EIGHT_BIT))[0][2] == b"no end\r\n"


# ── what is left alone ────────────────────────────────────────────────────────────────────────

TEXT = part(UMLAUTS, QP)
LEFT_ALONE = {
    "signed": mixed(TEXT, kind=b"signed", more=b' protocol="application/pgp-signature"\r\n'),
    "encrypted": mixed(TEXT, kind=b"encrypted"),
    "digest": mixed(b"\r\nSubject: x\r\n\r\ntext", kind=b"digest"),
    "enclosed": mixed(b"Content-Type: message/rfc822\r\n\r\n" + HEAD + TEXT),
    "picture": mixed(part(b"\x89PNG", BASE64, b"image/png")),
    "attachment": mixed(b"Content-Disposition: attachment; filename=a.txt\r\n" + TEXT),
    "dkim": b"DKIM-Signature: v=1; a=x\r\n" + HEAD + TEXT,
    "arc": b"ARC-Message-Signature: i=1\r\n" + HEAD + TEXT,
    "unknown encoding": HEAD + TEXT.replace(b"quoted-printable", b"x-uuencode"),
    "two encodings": HEAD + b"Content-Transfer-Encoding: 7bit\r\n" + TEXT,
    "broken qp": HEAD + TEXT + b"=ZZ\r\n",
    "blank at a line's end": HEAD + TEXT + b"two \r\n",
    "broken base64": HEAD + part(b"x", BASE64) + b"*\r\n",
    "no boundary": HEAD + b"Content-Type: multipart/mixed\r\n\r\n--b\r\n" + TEXT,
    "encoded container": mixed(TEXT, more=b"Content-Transfer-Encoding: base64\r\n"),
    "no header": mixed(b"this is no field\r\n\r\ntext"),
    "empty": mixed(b""),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
@pytest.mark.parametrize("wanted", [QP, BASE64, EIGHT_BIT])
def test_what_must_not_change_does_not(name: str, wanted: Encoding) -> None:
    content = LEFT_ALONE[name]
    assert encoded(content, wanted) is content


def test_a_signed_part_beside_others_stays_as_it_was_signed() -> None:
    signed = (
        b'Content-Type: multipart/signed; boundary="s"\r\n\r\n--s\r\n' + TEXT + b"\r\n--s--\r\n"
    )
    content = mixed(signed, TEXT)
    result = encoded(content, BASE64)
    assert signed in result
    assert words(result)[-1] == "base64"


def test_nesting_beyond_any_sense_is_left_alone() -> None:
    entity = TEXT
    for number in range(60):
        mark = f"n{number}".encode()
        typed = b'Content-Type: multipart/mixed; boundary="' + mark + b'"\r\n\r\n'
        entity = typed + b"--" + mark + b"\r\n" + entity + b"\r\n--" + mark + b"--\r\n"
    content = HEAD + entity
    assert encoded(content, BASE64) is content


# ── any message ───────────────────────────────────────────────────────────────────────────────

CHUNKS = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b"=", b".", b"--=_b", b"--=_b--", b"ab", b"x" * 90,
     b"y" * 600, "ü".encode(), "日本語".encode(), b"\xff", b"\0", b"=20", b"From "]
)  # fmt: skip
TEXTS = st.lists(CHUNKS, max_size=12).map(b"".join)
KINDS = st.sampled_from([b"text/plain; charset=utf-8", b"text/html", b"text/x-any", b"image/png"])
WISHES = st.sampled_from([QP, BASE64, EIGHT_BIT])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, KINDS, st.sampled_from([QP, BASE64])), min_size=1, max_size=4),
    st.tuples(WISHES, WISHES, WISHES),
)
def test_any_parts_read_the_same_and_a_second_time_changes_nothing(
    parts: list[tuple[bytes, bytes, Encoding]], wished: tuple[Encoding, Encoding, Encoding]
) -> None:
    shown = [part(data, how, kind) for data, kind, how in parts if b"--" not in data or how != QP]
    content = mixed(*shown)
    result = encoded(content, *wished)
    assert read(result) == read(content)
    assert encoded(result, *wished) is result
    assert longest(result) <= 998
    assert b"\n" not in result.replace(b"\r\n", b"")
    assert read(to_7bit(result)) == read(content)
    for each in message_from_bytes(result).walk():
        if each["Content-Transfer-Encoding"] == "quoted-printable":
            assert longest(str(each.get_payload()).encode()) <= 76


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from([QP, BASE64]), WISHES)
def test_any_single_text_reads_the_same(data: bytes, how: Encoding, wanted: Encoding) -> None:
    content = HEAD + part(data, how) + b"\r\n"
    result = encoded(content, wanted)
    assert read(result)[0][2].removesuffix(b"\r\n") == read(content)[0][2].removesuffix(b"\r\n")
    assert encoded(result, wanted) is result
    assert result.endswith(b"\r\n")

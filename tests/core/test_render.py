"""Messages become such that any server takes them, and sound parts stay as they are."""

import email
import email.message
import email.policy
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.errors import SubmissionRefused
from mailcore.render import Content, repair

MESSAGE_ID = UUID("0190163d-8694-739b-aea5-966c26f8ad91")
DATE = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HEAD = b"From: Shop <news@shop.test>\r\nTo: a@x.test\r\nSubject: hello\r\n"

body_bytes = st.binary(max_size=3000).map(lambda data: data.replace(b"\0", b""))
long_line = st.integers(999, 5000).map(lambda count: b"x" * count)


def repaired(raw: bytes) -> Content:
    return repair(raw, message_id=MESSAGE_ID, date=DATE)


def problem_of(raw: bytes) -> tuple[str, str]:
    with pytest.raises(SubmissionRefused) as caught:
        repaired(raw)
    (problem,) = caught.value.problems
    return problem.pointer, problem.code


def parsed(content: bytes) -> email.message.EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, email.message.EmailMessage)
    return message


def payloads(content: bytes) -> list[bytes]:
    return [
        payload
        for part in email.message_from_bytes(content).walk()
        if not part.is_multipart()
        if isinstance(payload := part.get_payload(decode=True), bytes)
    ]


def lines_of(content: bytes) -> list[bytes]:
    assert content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n")
    assert content.endswith(b"\r\n")
    return content.split(b"\r\n")


def test_a_sound_message_is_left_alone_to_the_octet() -> None:
    raw = (
        HEAD
        + b"Date: Mon, 2 Mar 2026 10:00:00 +0000\r\nMessage-ID: <1@shop.test>\r\n"
        + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        + b"Content-Transfer-Encoding: 8bit\r\n\r\n.dot\r\n\r\nna\xc3\xafve\r\n"
    )
    content = repaired(raw)
    assert content.content == raw
    assert content.message_id_header == "<1@shop.test>"
    assert (str(content.header_from), content.subject) == ("news@shop.test", "hello")


def test_date_message_id_and_mime_version_are_added() -> None:
    message = parsed(repaired(HEAD + b"\r\nbody\r\n").content)
    assert message["Date"] == "Sun, 01 Mar 2026 12:30:00 +0000"
    assert message["Message-ID"] == f"<{MESSAGE_ID.hex}@shop.test>"
    assert message["MIME-Version"] == "1.0"


def test_an_unusable_message_id_is_replaced() -> None:
    content = repaired(HEAD + b"Message-ID: 12\r\n\r\n")
    assert content.message_id_header == f"<{MESSAGE_ID.hex}@shop.test>"
    assert parsed(content.content).get_all("Message-ID") == [content.message_id_header]


def test_bcc_return_path_and_control_headers_are_dropped() -> None:
    content = repaired(
        HEAD
        + b"bcc: secret@x.test,\r\n other@x.test\r\nReturn-Path: <r@x.test>\r\n"
        + b"X-Postfleet-Campaign: c\r\nResent-Bcc: q@x.test\r\nX-Kept: yes\r\n\r\nbody\r\n"
    )
    for word in (b"secret", b"other", b"Return-Path", b"Postfleet", b"q@x"):
        assert word not in content.content
    assert b"X-Kept: yes\r\n" in content.content


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_line_ends_of_any_kind_become_crlf(end: bytes) -> None:
    raw = end.join([b"From: a@shop.test", b"Subject: x", b"", b"one", b".", b"two"])
    content = repaired(raw).content
    assert content.endswith(b"\r\n\r\none\r\n.\r\ntwo\r\n")
    assert lines_of(content)


def test_a_message_without_a_body_is_whole() -> None:
    content = repaired(b"From: a@shop.test\r\nSubject: x").content
    assert content.endswith(b"\r\n\r\n")
    assert repaired(content).content == content


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (HEAD + b"\r\na\0b\r\n", "nul"),
        (b"\r\nbody only\r\n", "from_missing"),
        (b"To: a@x.test\r\n\r\nbody\r\n", "from_missing"),
        (b"From: a@x.test, b@x.test\r\n\r\n", "from_malformed"),
        (b"From: nobody\r\n\r\n", "from_malformed"),
        (b"From: group: a@x.test;\r\n\r\n", "from_malformed"),
        (b"From: " + b"(" * 900 + b" a@x.test\r\n\r\n", "from_malformed"),
        (b"From: a@x.test\r\nFrom: b@x.test\r\n\r\n", "duplicate_header"),
        (HEAD + b"subject: again\r\n\r\n", "duplicate_header"),
        (b"From me today\r\nFrom: a@x.test\r\n\r\n", "malformed_header"),
        (HEAD + b"no field\r\n\r\nbody\r\n", "malformed_header"),
        (b" folded first\r\n\r\n", "malformed_header"),
        (HEAD + b"X-\xc3\xa4: 1\r\n\r\n", "malformed_header"),
        (HEAD + b"X-A: \xff\xfe\r\n\r\n", "header_charset"),
        (HEAD + b"X-A: " + b"x" * 2000 + b"\r\n\r\n", "header_line_too_long"),
        (HEAD + b"X-A: y\r\n" * 20_000 + b"\r\n", "header_too_large"),
    ],
)
def test_what_cannot_be_repaired_is_refused_with_its_reason(raw: bytes, code: str) -> None:
    assert problem_of(raw) == ("/raw", code)


def test_raw_utf8_in_header_fields_becomes_encoded_words() -> None:
    raw = (
        'From: "Müller, A" <news@shop.test>\r\nTo: Zoë <a@x.test>, "B, C" <b@x.test>\r\n'
        "Subject: Grüße aus Köln, und noch viel mehr davon in einer sehr langen Zeile\r\n"
        "X-Note: ключ\r\n\r\nbody\r\n"
    ).encode()
    content = repaired(raw)
    assert content.content.isascii()
    message = parsed(content.content)
    assert [(a.display_name, a.addr_spec) for a in message["From"].addresses] == [
        ("Müller, A", "news@shop.test")
    ]
    assert [(a.display_name, a.addr_spec) for a in message["To"].addresses] == [
        ("Zoë", "a@x.test"),
        ("B, C", "b@x.test"),
    ]
    expected = "Grüße aus Köln, und noch viel mehr davon in einer sehr langen Zeile"
    assert message["Subject"] == content.subject == expected
    assert message["X-Note"] == "ключ"


@pytest.mark.parametrize(
    "body", [b"x" * 998 + b"\r\n", b"first\r\n" + b"x" * 998 + b"\r\nlast\r\n"]
)
def test_a_line_of_998_octets_is_left_alone(body: bytes) -> None:
    assert repaired(HEAD + b"\r\n" + body).content.endswith(b"\r\n\r\n" + body)
    parts = HEAD + multipart(b"\r\n" + body, b"\r\n" + body)
    assert repaired(parts).content.endswith(parts.partition(b"\r\n\r\n")[2])
    longer = body.replace(b"x" * 998, b"x" * 999)
    assert b"x" * 999 not in repaired(HEAD + b"\r\n" + longer).content


def test_an_encoded_subject_is_read_and_kept() -> None:
    content = repaired(b"From: a@shop.test\r\nSubject: =?utf-8?b?w6Q=?=\r\n\r\n")
    assert content.subject == "ä"
    assert b"Subject: =?utf-8?b?w6Q=?=\r\n" in content.content
    assert repaired(b"From: a@shop.test\r\nSubject: =?none?b?w6Q=?=\r\n\r\n").subject


def test_an_8bit_body_without_a_type_is_declared() -> None:
    assert parsed(repaired(HEAD + b"\r\nna\xc3\xafve\r\n").content).get_content() == "naïve\r\n"


def test_blanks_before_a_colon_are_left_out() -> None:
    raw = b"From \t: a@shop.test\r\nSubject : x\r\n y : z\r\n\r\nbody : x\r\n"
    content = repaired(raw)
    assert content.content.startswith(b"From: a@shop.test\r\nSubject: x\r\n y : z\r\n")
    assert content.content.endswith(b"\r\n\r\nbody : x\r\n")
    assert content.subject == "x y : z"


def test_a_long_header_field_is_folded_at_blanks() -> None:
    references = b" ".join(b"<%d@shop.test>" % number for number in range(200))
    content = repaired(HEAD + b"References: " + references + b"\r\n\r\nbody\r\n").content
    assert max(map(len, lines_of(content))) <= 998
    assert parsed(content)["References"].replace("\r\n", "") == references.decode()


def multipart(*entities: bytes, kind: bytes = b"mixed", boundary: bytes = b"b1") -> bytes:
    head = b'Content-Type: multipart/%s; boundary="%s"\r\n\r\npreamble\r\n' % (kind, boundary)
    parts = b"".join(b"--%s\r\n%s\r\n" % (boundary, entity) for entity in entities)
    return head + parts + b"--%s--\r\nepilogue\r\n" % boundary


def test_only_the_part_with_an_over_long_line_is_encoded_anew() -> None:
    sound = b"Content-Type: text/plain; charset=utf-8\r\n\r\nna\xc3\xafve = 1\r\n"
    long_text = b"Content-Type: text/html; charset=utf-8\r\n\r\n<p>" + b"word " * 500 + b"</p>\r\n"
    binary = b"Content-Type: application/pdf\r\n\r\n" + b"\x01\xfe" * 2000
    wrapped = (
        b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"QUJD" * 900
    )
    raw = HEAD + multipart(sound, long_text, binary, wrapped)
    content = repaired(raw).content
    assert max(map(len, lines_of(content))) <= 998
    assert sound in content
    assert payloads(content) == payloads(HEAD + b"MIME-Version: 1.0\r\n" + raw[len(HEAD) :])
    assert [part["Content-Transfer-Encoding"] for part in parsed(content).walk()] == [
        None,
        None,
        "quoted-printable",
        "base64",
        "base64",
    ]


def test_parts_inside_parts_and_forwarded_messages_are_reached() -> None:
    inner = b"From: b@x.test\r\nSubject: in\r\n\r\n" + b"y" * 1500 + b"\r\n"
    forwarded = b"Content-Type: message/rfc822\r\n\r\n" + inner
    nested = multipart(b"\r\n" + b"z" * 1200, forwarded, kind=b"alternative", boundary=b"b2")
    raw = HEAD + multipart(nested, b"\r\nshort")
    content = repaired(raw).content
    assert max(map(len, lines_of(content))) <= 998
    assert payloads(content) == [b"z" * 1200, b"y" * 1500 + b"\r\n", b"short"]


@pytest.mark.parametrize("kind", [b"signed", b"encrypted"])
def test_a_signed_part_is_never_encoded_anew(kind: bytes) -> None:
    raw = HEAD + multipart(b"\r\n" + b"x" * 1200, kind=kind)
    assert problem_of(raw) == ("/raw", "line_too_long")
    assert b"short" in repaired(HEAD + multipart(b"\r\nshort", kind=kind)).content


def test_absurd_nesting_is_refused() -> None:
    raw = b"\r\n" + b"x" * 1200
    for number in range(30):
        raw = multipart(raw, boundary=b"b%d" % number)
    assert problem_of(HEAD + raw) == ("/raw", "mime_too_deep")


def test_what_stands_outside_the_parts_is_cut() -> None:
    raw = HEAD + multipart(b"\r\npart").replace(b"preamble", b"p" * 3000)
    content = repaired(raw).content
    assert max(map(len, lines_of(content))) <= 998
    assert payloads(content) == [b"part"]


@settings(deadline=None)
@given(body_bytes, st.lists(long_line, max_size=2))
def test_repairing_twice_changes_nothing_more(body: bytes, more: list[bytes]) -> None:
    once = repaired(HEAD + b"\r\n" + b"\n".join([body, *more]))
    assert max(map(len, lines_of(once.content))) <= 998
    assert repaired(once.content) == once


@settings(deadline=None)
@given(st.lists(body_bytes | long_line, min_size=1, max_size=4))
def test_parts_arrive_identical(bodies: list[bytes]) -> None:
    bodies = [
        body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        for body in bodies
    ]
    entities = [b"Content-Type: application/octet-stream\r\n\r\n" + body for body in bodies]
    content = repaired(HEAD + multipart(*entities, boundary=b"4f1c77")).content
    assert payloads(content) == bodies
    assert repaired(content).content == content


@settings(deadline=None)
@given(body_bytes)
def test_a_text_with_a_long_line_decodes_to_the_same(body: bytes) -> None:
    body = body.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"w" * 1000 + b"\r\n"
    raw = HEAD + b"Content-Type: text/plain; charset=x\r\n\r\n" + body
    assert payloads(repaired(raw).content) == [body]


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_octets_are_repaired_or_refused(raw: bytes) -> None:
    try:
        content = repaired(b"From: a@shop.test\n" + raw)
    except SubmissionRefused:
        return
    assert repaired(content.content) == content


def test_what_cannot_be_told_apart_is_left_as_it_is() -> None:
    raw = b"From: a@shop.test\r\nTo: F\xc3\xb6rderer: a@x.test, b@x.test;\r\n\r\n\xff\xfe\r\n"
    content = repaired(raw).content
    assert "To: Förderer: a@x.test, b@x.test;\r\n".encode() in content
    assert b"Content-Type" not in content
    kept = b"Content-Type: text/plain; name=\xc3\xa4.txt\r\n"
    assert kept in repaired(HEAD + kept + b"\r\n").content


@pytest.mark.parametrize(
    "part",
    [
        b"Content-Type: text/plain\r\n\r\n",
        b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
        b"Content-Type: image/x\r\nContent-Transfer-Encoding: base64\r\n\r\n",
    ],
)
@pytest.mark.parametrize("column", range(70, 80))
def test_a_line_is_never_broken_in_front_of_what_reads_as_a_delimiter(
    part: bytes, column: int
) -> None:
    evil = b"w" * column + b"--b1\r\nContent-Type: text/html\r\n\r\nevil\r\n" + b"z" * 1000
    raw = HEAD + multipart(part + evil)
    content = repaired(raw).content
    assert len(payloads(content)) == 1
    assert payloads(content) == payloads(raw) or b"base64" in part
    assert max(map(len, lines_of(content))) <= 998


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: multipart/mixed; boundary*=idna''%C3%BCb\r\n\r\n",
        b"Content-Transfer-Encoding: x-uuencode\r\n\r\n",
    ],
)
def test_a_part_that_nobody_can_read_is_left_alone_and_refused_with_a_long_line(
    head: bytes,
) -> None:
    assert repaired(HEAD + head + b"short\r\n").content.endswith(b"\r\n\r\nshort\r\n")
    assert problem_of(HEAD + head + b"x" * 1200) == ("/raw", "line_too_long")


def test_an_encoded_body_with_a_long_line_is_broken_and_decodes_to_the_same() -> None:
    printable = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"a=3D=0A" * 500
    mostly_8bit = b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + "ж".encode() * 900 + b"\r\n"
    for part in (printable, mostly_8bit):
        content = repaired(HEAD + part).content
        assert max(map(len, lines_of(content))) <= 998
        assert payloads(content)[0].rstrip(b"\r\n") == payloads(HEAD + part)[0].rstrip(b"\r\n")


def test_a_message_of_parts_without_its_last_boundary_is_whole() -> None:
    raw = HEAD + multipart(b"\r\n" + b"x" * 1200).partition(b"--b1--")[0]
    assert payloads(repaired(raw).content) == payloads(raw) == [b"x" * 1200]

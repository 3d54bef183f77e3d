"""Messages of parts carry what they were given, in header text that any reader understands."""

import email
import email.message
import re
from email.header import decode_header, make_header

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.address import ForwardPath
from mailcore.errors import AddressError
from mailcore.render import Attachment, Mailbox, Parts, build, repair
from mailcore.render.content import encode_text, read_mailbox, split_mailboxes
from tests.core.test_render import DATE, MESSAGE_ID, lines_of, parsed

header_text = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=300).map(
    lambda text: " ".join(text.split())
)
body_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def shown_name(raw: bytes) -> str:
    """Read the From field by RFC 2047 alone: blanks between encoded words are no text."""
    phrase = str(email.message_from_bytes(raw)["From"]).rpartition("a@x.test")[0]
    phrase = phrase.removesuffix("<").strip()
    if phrase.startswith('"'):
        return re.sub(r"\\(.)", r"\1", phrase[1:-1])
    return str(make_header(decode_header(phrase)))


def mailbox(address: str, name: str = "") -> Mailbox:
    return Mailbox(name, ForwardPath.parse(address))


# ── mailboxes and header text ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("a@x.test", "", "a@x.test"),
        (" <a@x.test> ", "", "a@x.test"),
        ("Shop News <a@x.test>", "Shop News", "a@x.test"),
        ('"News, \\"daily\\"" <a@X.test>', 'News, "daily"', "a@x.test"),
        ("Zoë <a@bücher.test>", "Zoë", "a@xn--bcher-kva.test"),
        ("a@x.test (comment)", "", "a@x.test"),
    ],
)
def test_a_mailbox_is_read(text: str, name: str, address: str) -> None:
    shown, found = read_mailbox(text)
    assert str(found) == address
    assert shown == name


@pytest.mark.parametrize(
    "text",
    ["", "a", "a@x.test b@x.test", "a@x.test, b@x.test", "<a@x.test", "A <a@@x.test>", "x" * 2000],
)
def test_what_is_not_one_mailbox_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        read_mailbox(text)


def test_a_list_is_split_outside_quotes() -> None:
    assert split_mailboxes('"a, \\"b" <a@x.test>, c@x.test,, "d\\\\" <d@x.test>') == [
        '"a, \\"b" <a@x.test>',
        " c@x.test",
        ' "d\\\\" <d@x.test>',
    ]


@settings(deadline=None)
@given(header_text)
def test_header_text_round_trips_in_short_lines(text: str) -> None:
    raw = encode_text("Subject", text)
    assert all(line.strip() for line in raw.split(b"\r\n"))
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    if "=?" not in text:
        assert parsed(raw + b"\r\n\r\n")["Subject"] == text


def test_a_long_word_is_encoded_rather_than_left_too_long() -> None:
    assert max(map(len, encode_text("X-A", "y" * 3000).split(b"\r\n"))) <= 76


# ── build ─────────────────────────────────────────────────────────────────────────────────────


def built(parts: Parts) -> email.message.EmailMessage:
    content = build(parts, message_id=MESSAGE_ID, date=DATE)
    assert max(map(len, lines_of(content.content))) <= 998
    assert repair(content.content, message_id=MESSAGE_ID, date=DATE).content == content.content
    return parsed(content.content)


def test_texts_attachments_and_inline_pictures_find_their_places() -> None:
    message = built(
        Parts(
            sender=mailbox("news@shop.test", "Shop"),
            to=(mailbox("a@x.test", "Zoë"), mailbox("b@x.test")),
            cc=(mailbox("c@x.test", "C, D"),),
            reply_to=(mailbox("r@shop.test"),),
            subject="Grüße",
            text="plain",
            html="<img src=cid:logo>",
            attachments=(
                Attachment("logo.png", "image/png", b"\x89PNG\0", content_id="logo"),
                Attachment("Отчёт «1».pdf", "application/pdf", b"%PDF" * 1000),
            ),
            headers=(("List-Unsubscribe", "<https://shop.test/u>"),),
        )
    )
    shape = [part.get_content_type() for part in message.walk()]
    assert shape == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "application/pdf",
    ]
    parts = list(message.walk())
    assert parts[2].get_content() == "plain"
    assert parts[5]["Content-ID"] == "<logo>"
    assert parts[5].get_content_disposition() == "inline"
    assert (parts[6].get_filename(), parts[6].get_content()) == ("Отчёт «1».pdf", b"%PDF" * 1000)
    assert message["From"] == "Shop <news@shop.test>"
    assert message["To"].addresses[0].display_name == "Zoë"
    assert message["Cc"].addresses[0].display_name == "C, D"
    assert (message["Subject"], message["Reply-To"]) == ("Grüße", "r@shop.test")
    assert message["List-Unsubscribe"] == "<https://shop.test/u>"
    assert message["Date"] == "Sun, 01 Mar 2026 12:30:00 +0000"


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        (Parts(mailbox("a@x.test"), text="t"), "text/plain"),
        (Parts(mailbox("a@x.test"), html="h"), "text/html"),
        (Parts(mailbox("a@x.test"), text="t", html="h"), "multipart/alternative"),
        (Parts(mailbox("a@x.test")), "text/plain"),
        (
            Parts(mailbox("a@x.test"), attachments=(Attachment("a.bin", "image/png", b"1"),)),
            "image/png",
        ),
    ],
)
def test_no_more_structure_than_needed(parts: Parts, kind: str) -> None:
    assert built(parts).get_content_type() == kind


@settings(deadline=None)
@given(header_text, body_text, header_text)
def test_any_text_arrives_as_it_was(subject: str, text: str, name: str) -> None:
    message = built(Parts(mailbox("a@x.test", name), subject=subject, text=text))
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    arrived = payload.decode().replace("\r\n", "\n")
    assert arrived.rstrip("\n") == text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    raw = build(Parts(mailbox("a@x.test", name)), message_id=MESSAGE_ID, date=DATE).content
    assert shown_name(raw) == name


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=60)
    .map(str.strip)
    # The standard library's reader takes quotes and angles off twice.
    .filter(lambda name: name and name[0] not in '<"')
)
def test_any_file_name_arrives_as_it_was(name: str) -> None:
    parts = Parts(mailbox("a@x.test"), attachments=(Attachment(name, "image/png", b"1"),))
    assert built(parts).get_filename() == name


def test_a_long_ascii_subject_is_folded_between_words() -> None:
    text = " ".join(f"word{number}" for number in range(40))
    lines = encode_text("Subject", text).split(b"\r\n")
    assert len(lines) > 3
    assert max(map(len, lines)) <= 76
    assert b"".join(lines).decode() == f"Subject: {text}"
    assert not any(line.startswith(b"  ") for line in lines)

"""Header overrides of an ISP: added fields replace, deleted ones go whole, the body stays."""

from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.render.overrides import PROTECTED, can_be_written, override_headers

CONTENT = b"From: a@b.test\r\nX-Job: one\r\n two\r\nSubject: hi\r\n\r\nX-Job: in the body\r\n"


def test_without_overrides_the_content_is_the_same_object() -> None:
    assert override_headers(CONTENT, add=(), delete=()) is CONTENT


def test_a_deleted_field_goes_with_its_folded_lines_and_the_body_stays() -> None:
    got = override_headers(CONTENT, add=(), delete=("x-job",))
    assert got == b"From: a@b.test\r\nSubject: hi\r\n\r\nX-Job: in the body\r\n"


def test_an_added_field_takes_the_place_of_its_namesake() -> None:
    got = override_headers(CONTENT, add=(("X-Job", "new"),), delete=())
    assert got == b"X-Job: new\r\nFrom: a@b.test\r\nSubject: hi\r\n\r\nX-Job: in the body\r\n"


@given(st.binary(max_size=200))
def test_the_body_is_never_touched(body: bytes) -> None:
    content = b"From: a@b.test\r\nX-A: 1\r\n\r\n" + body
    got = override_headers(content, add=(("X-B", "2"),), delete=("X-A",))
    assert got == b"X-B: 2\r\nFrom: a@b.test\r\n\r\n" + body


@pytest.mark.parametrize("name", [*sorted(PROTECTED), "FROM", "X-Postfleet-Token"])
def test_a_protected_field_is_neither_deleted_nor_replaced(name: str) -> None:
    content = f"{name}: mine\r\nX-A: 1\r\n\r\nbody".encode()
    assert override_headers(content, add=(), delete=(name,)) is content
    assert override_headers(content, add=((name, "theirs"),), delete=()) is content
    both = override_headers(content, add=((name, "theirs"), ("X-B", "2")), delete=(name, "X-A"))
    assert both == f"X-B: 2\r\n{name}: mine\r\n\r\nbody".encode()


@given(
    st.text(st.sampled_from("aB-: \r\n\0é")),
    st.text(st.sampled_from("a :;\r\n\t\0é界")).map(lambda text: text * 30),
)
def test_whatever_is_added_is_one_field_at_most(name: str, value: str) -> None:
    got = override_headers(CONTENT, add=((name, value),), delete=())
    assert got.endswith(b"\r\n\r\nX-Job: in the body\r\n")
    head = got.partition(b"\r\n\r\n")[0]
    fields = [line for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert len(fields) <= 4
    assert head.isascii()
    assert max(map(len, head.split(b"\r\n"))) <= 998
    assert b"\r" not in head.replace(b"\r\n", b"")


def test_an_added_value_of_any_letters_is_read_as_it_was_written() -> None:
    got = override_headers(CONTENT, add=(("X-Greeting", "Grüße, 世界"),), delete=())
    assert got.isascii()
    assert message_from_bytes(got, policy=policy.SMTP)["X-Greeting"] == "Grüße, 世界"


def test_the_name_of_an_added_address_is_encoded_and_the_address_is_not() -> None:
    add = (("Reply-To", "Jürgen <j@b.test>, k@b.test"),)
    got = override_headers(b"Reply-To: x@y.test\r\n\r\n", add=add, delete=())
    assert got == b"Reply-To: =?utf-8?B?SsO8cmdlbg==?= <j@b.test>,\r\n k@b.test\r\n\r\n"
    found = message_from_bytes(got, policy=policy.SMTP)["Reply-To"].addresses
    assert [(one.display_name, one.addr_spec) for one in found] == [
        ("Jürgen", "j@b.test"),
        ("", "k@b.test"),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Reply-To", "jürgen@b.test"),
        ("Cc", "Grüße: a@b.test;"),
        ("List-Id", "Grüße <news.b.test>"),
        ("List-Unsubscribe", "<https://b.test/ü>"),
    ],
)
def test_a_value_that_no_reader_would_understand_has_no_effect(name: str, value: str) -> None:
    assert not can_be_written(name, value)
    assert can_be_written(name, "a@b.test")
    assert override_headers(CONTENT, add=((name, value),), delete=()) is CONTENT

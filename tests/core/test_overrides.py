"""Header overrides of an ISP: added fields replace, deleted ones go whole, the body stays."""

from hypothesis import given
from hypothesis import strategies as st

from mailcore.render.overrides import override_headers

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

"""Addresses are parsed once, at the border, and refused with the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.address import ForwardPath, ReversePath, parse_domain, to_a_label
from mailcore.errors import AddressError


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("a@example.com", "a", "example.com"),
        ("  A.B+tag@EXAMPLE.com. ", "A.B+tag", "example.com"),
        ('"a b"@example.com', '"a b"', "example.com"),
        ('"a@b"@example.com', '"a@b"', "example.com"),
        ("jürgen@bücher.example", "jürgen", "xn--bcher-kva.example"),
        ("x_y@under_score.example", "x_y", "under_score.example"),
    ],
)
def test_addresses_that_people_use_are_parsed(text: str, local_part: str, domain: str) -> None:
    path = ForwardPath.parse(text)
    assert (path.local_part, path.domain) == (local_part, domain)
    assert str(path) == f"{local_part}@{domain}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no @"),
        ("plain", "no @"),
        ("@example.com", "incomplete"),
        ("a@", "incomplete"),
        ("a@localhost", "no dot"),
        ("a..b@example.com", "local part"),
        (".a@example.com", "local part"),
        ("a.@example.com", "local part"),
        ("a b@example.com", "local part"),
        ('"a"b"@example.com', "quoted"),
        ("a@exa mple.com", "malformed label"),
        ("a@-x.com", "malformed label"),
        ("a@x-.com", "malformed label"),
        ("a@x..com", "malformed label"),
        ("a@[192.0.2.1]", "literals"),
        ("a@[IPv6:2001:db8::1]", "literals"),
        ("x" * 65 + "@example.com", "64 octets"),
        ("a@" + "x." * 130 + "com", "253 octets"),
        ("x" * 60 + "@" + ("y" * 60 + ".") * 3 + "comcomcomcom", "254 octets"),
        ("a@" + "y" * 64 + ".com", "malformed label"),
        ("a\r\nRCPT TO:<b@example.com>@example.com", "control"),
        ("a@example.com\n", "control"),
        ("a\x00@example.com", "control"),
        ("a@x\u2028y.com", "internationalised"),
    ],
)
def test_addresses_that_may_not_be_used_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        ForwardPath.parse(text)


def test_a_local_part_beyond_ascii_needs_smtputf8_and_a_domain_does_not() -> None:
    assert ForwardPath.parse("jürgen@example.com").needs_smtputf8
    assert not ForwardPath.parse("a@bücher.example").needs_smtputf8


def test_the_key_ignores_case() -> None:
    assert ForwardPath.parse("A.B@Example.COM").key == "a.b@example.com"


@pytest.mark.parametrize("text", ["", "<>", "  "])
def test_the_null_reverse_path_is_empty(text: str) -> None:
    path = ReversePath.parse(text)
    assert path.is_null
    assert str(path) == ""


def test_a_reverse_path_is_a_mailbox() -> None:
    path = ReversePath.parse("Bounce@Example.com")
    assert not path.is_null
    assert str(path) == "Bounce@example.com"
    with pytest.raises(AddressError):
        ReversePath.parse("nobody")


def test_domains_are_a_labels() -> None:
    assert parse_domain("Bücher.Example.") == "xn--bcher-kva.example"
    assert to_a_label("localhost") == "localhost"
    with pytest.raises(AddressError, match="empty"):
        to_a_label(" . ")


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_refused_and_what_is_parsed_reads_the_same_again(text: str) -> None:
    try:
        path = ForwardPath.parse(text)
    except AddressError:
        return
    assert ForwardPath.parse(str(path)) == path
    assert "\r" not in str(path)
    assert "\n" not in str(path)

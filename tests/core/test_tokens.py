"""Message tokens survive transport, tell their message, and cannot be made up."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.address import ReversePath
from mailcore.errors import TokenError
from mailcore.tokens import MessageToken, find_in_local_part, read, return_path_local_part, sign

OLD, NEW = {1: b"a" * 32}, {1: b"a" * 32, 2: b"b" * 32}
TOKEN = MessageToken(UUID("01890a5d-ac96-774b-bcce-b302099a8057"), 3)


@given(st.uuids(), st.integers(0, 0xFFFF))
def test_a_token_reads_back_whatever_its_case(message_id: UUID, number: int) -> None:
    token = MessageToken(message_id, number)
    text = sign(token, ring=NEW)
    assert read(text, ring=NEW) == token
    assert read(text.upper(), ring=NEW) == token
    assert text == text.lower()
    assert text.isalnum()


def test_a_token_is_good_for_two_generations_of_keys() -> None:
    text = sign(TOKEN, ring=OLD)
    assert read(text, ring=NEW) == TOKEN
    with pytest.raises(TokenError, match="no longer kept"):
        read(text, ring={2: b"b" * 32})


@given(st.integers(0, 43), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_changed_token_is_refused(at: int, character: str) -> None:
    text = sign(TOKEN, ring=NEW)
    changed = text[:at] + character + text[at + 1 :]
    try:
        found = read(changed, ring=NEW)
    except TokenError:
        return
    # Base32 has bits to spare in its last character: the bytes are then the same.
    assert found == TOKEN


@pytest.mark.parametrize("text", ["", "a", "not base32!", "é", "a" * 44, "a" * 400])
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        read(text, ring=NEW)


def test_a_foreign_key_signs_nothing_of_ours() -> None:
    with pytest.raises(TokenError, match="does not verify"):
        read(sign(TOKEN, ring={2: b"x" * 32}), ring=NEW)


def test_a_return_path_is_short_and_found_again() -> None:
    local_part = return_path_local_part(TOKEN, ring=NEW)
    assert len(local_part) <= 64
    assert str(ReversePath.parse(f"{local_part}@bounce.example.com")).startswith("b-")
    assert find_in_local_part(local_part.upper(), ring=NEW) == TOKEN
    with pytest.raises(TokenError, match="no signed return path"):
        find_in_local_part("someone", ring=NEW)


def test_signing_without_a_key_or_for_too_many_recipients_is_refused() -> None:
    with pytest.raises(TokenError, match="no key"):
        sign(TOKEN, ring={})
    with pytest.raises(TokenError, match="65535"):
        sign(MessageToken(TOKEN.message_id, 65536), ring=NEW)

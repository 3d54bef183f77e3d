"""Content in eight bits, and servers that take no other than seven."""

from __future__ import annotations

import pytest

from mailcore.outcome import RowState
from tests.support.builders import row
from tests.support.fakes import World, world
from tests.workers.test_drain import drained

GRUESSE = (
    b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
)
SEALED = (
    b"Subject: x\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/signed; boundary="b"; protocol="application/pgp-signature"\r\n'
    b"Content-Transfer-Encoding: 8bit\r\n\r\n--b\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n--b--\r\n"
)


def meeting(content: bytes, *, takes_8bit: bool) -> World:
    """A row with this content, and a server that takes eight bits or does not."""
    it = world()
    it.spool.content = content
    it.receiver.takes_8bit = takes_8bit
    it.ledger.add(row(1), row(2))
    return it


async def test_eight_bits_go_as_they_are_to_a_server_that_takes_them() -> None:
    it = meeting(GRUESSE, takes_8bit=True)
    await drained(it)
    assert [message.content.endswith(GRUESSE) for message in it.receiver.delivered] == [True, True]
    assert all(message.needs_8bit for message in it.receiver.delivered)


async def test_eight_bits_are_converted_for_a_server_that_takes_seven() -> None:
    it = meeting(GRUESSE, takes_8bit=False)
    await drained(it)
    assert it.ledger.kinds() == ["delivered", "delivered"]
    for message in it.receiver.delivered:
        assert message.content.isascii()
        assert not message.needs_8bit
        assert b"Gr=C3=BC=C3=9Fe" in message.content


async def test_what_is_signed_by_its_author_is_returned_and_not_broken() -> None:
    it = meeting(SEALED, takes_8bit=False)
    await drained(it)
    assert it.ledger.kinds() == ["bounced", "bounced"]
    assert it.receiver.delivered == []
    assert it.ledger.rows == {}


async def test_a_spool_that_is_away_at_the_conversion_costs_a_wait_and_no_mail() -> None:
    it = meeting(GRUESSE, takes_8bit=False)
    it.spool.away_after = 1
    await drained(it)
    assert it.receiver.delivered == []
    assert {each.state for each in it.ledger.rows.values()} == {RowState.WAITING}
    assert set(it.ledger.due_in_s.values()) == {5.0}


@pytest.mark.parametrize("takes_8bit", [True, False])
async def test_fields_in_other_letters_need_a_server_with_smtputf8(takes_8bit: bool) -> None:
    content = "From: a@sender.test\r\nTo: jürgen@peer.test\r\n\r\nhi\r\n".encode()
    it = meeting(content, takes_8bit=takes_8bit)
    await drained(it)
    # In seven bits there is no such message.
    assert it.ledger.kinds() == ["delivered" if takes_8bit else "bounced"] * 2
    assert all(message.needs_smtputf8 for message in it.receiver.delivered)


async def test_a_body_in_other_letters_needs_none() -> None:
    it = meeting(GRUESSE, takes_8bit=True)
    await drained(it)
    assert not any(message.needs_smtputf8 for message in it.receiver.delivered)

"""Stop entries in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mailcore.ports import StoreUnavailable
from mailcore.stoplist import StopCause, StopEntry
from mailio.stoplist import PgStopList
from tests.io.ledger import world

ENTRY = StopEntry(7, "ab" * 16, "ann@example.com", StopCause.HARD_BOUNCE, "550 no 'such' user \\")


@pytest.fixture
def stop_list() -> Iterator[PgStopList]:
    opened = PgStopList(world.empty())
    yield opened
    opened.close()


def rows() -> list[tuple[object, ...]]:
    return world.query(
        "SELECT account_id, recipient_hash, recipient, reason, detail, expires_at"
        " FROM stop_entry ORDER BY account_id, recipient_hash"
    )


def test_an_address_is_on_a_list_once_with_its_first_reason(stop_list: PgStopList) -> None:
    other = replace(ENTRY, account_id=8, cause=StopCause.COMPLAINT, detail="")
    assert stop_list.add([ENTRY, other]) == 2
    assert stop_list.add([replace(ENTRY, cause=StopCause.UNSUBSCRIBED), other]) == 0
    assert stop_list.add([ENTRY, ENTRY, replace(ENTRY, recipient_hash="cd" * 16)]) == 1
    assert stop_list.add([]) == 0
    one = (7, "ab" * 16, "ann@example.com", "hard_bounce", ENTRY.detail, None)
    assert rows() == [
        one,
        (7, "cd" * 16, "ann@example.com", "hard_bounce", ENTRY.detail, None),
        (8, "ab" * 16, "ann@example.com", "complaint", "", None),
    ]


def test_a_database_that_is_away_says_so() -> None:
    stop_list = PgStopList("postgresql://127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable, match="postgresql"):
        stop_list.add([ENTRY])
    stop_list.close()

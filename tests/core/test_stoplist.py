"""A stop list says who must not be mailed, by whom, and until when."""

from datetime import UTC, datetime, timedelta

import pytest

from mailcore.stoplist import Stop, StopCause, divide, stop_for

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OWN = Stop(7, StopCause.MANUAL.value)
OF_ALL = Stop(0, StopCause.HARD_BOUNCE.value)


@pytest.mark.parametrize(
    ("stop", "applies"),
    [
        (OWN, True),
        (OF_ALL, True),
        (Stop(8, "manual"), False),
        (Stop(7, "manual", expires_at=NOW), False),
        (Stop(7, "manual", expires_at=NOW + timedelta(seconds=1)), True),
        (Stop(0, "manual", expires_at=NOW - timedelta(days=1)), False),
    ],
)
def test_an_entry_stops_its_account_until_it_expires(stop: Stop, applies: bool) -> None:
    assert stop.applies(account_id=7, now=NOW) is applies


def test_the_accounts_own_entry_is_the_one_that_is_told() -> None:
    assert stop_for([OF_ALL, OWN], account_id=7, now=NOW) is OWN
    assert stop_for([OF_ALL, Stop(8, "manual")], account_id=7, now=NOW) is OF_ALL
    assert stop_for([Stop(8, "manual")], account_id=7, now=NOW) is None
    assert stop_for([], account_id=7, now=NOW) is None


def test_recipients_are_divided_in_order() -> None:
    kept, stopped = divide("abcd", {"b": OWN, "d": OF_ALL, "x": OWN}, key=str)
    assert kept == ["a", "c"]
    assert stopped == [("b", OWN), ("d", OF_ALL)]
    assert divide("ab", {}, key=str) == (["a", "b"], [])

"""Events: names that never change, ids that repeat with what they tell, bodies that come back."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields, replace
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.errors import SchemaError
from mailcore.events import (
    FIELDS,
    Event,
    EventKind,
    decode_lines,
    encode_lines,
    event_id,
    raw_lines,
    recipient_hash,
    reference_name,
)

MESSAGE = UUID("01950000-0000-7000-8000-000000000001")
EVENT = Event(
    event_id=event_id(message_id=MESSAGE, recipient_no=0, claim_no=1, kind=EventKind.DELIVERED),
    kind="delivered",
    occurred_ms=1_772_366_400_000,
    message_id=str(MESSAGE),
    recipient_no=0,
    claim_no=1,
    account_id=3,
)


def test_the_kinds_are_the_closed_list_and_six_of_them_leave_the_recipient_owed_nothing() -> None:
    assert {kind.value for kind in EventKind} == {
        "accepted", "delivered", "deferred", "bounced", "expired", "stopped", "purged",
        "unknown", "late_bounced", "complained", "replied", "unsubscribed", "rejected",
    }  # fmt: skip
    final = {kind.value for kind in EventKind if kind.is_final}
    assert final == {"delivered", "bounced", "expired", "stopped", "purged"}


@pytest.mark.parametrize(
    ("kind", "bounce_type", "name"),
    [
        (EventKind.ACCEPTED, "", "send"),
        (EventKind.DELIVERED, "", "deliv"),
        (EventKind.DEFERRED, "soft", "sbounce"),
        (EventKind.BOUNCED, "hard", "hbounce"),
        (EventKind.BOUNCED, "bounce", "undeliv"),
        (EventKind.BOUNCED, "soft", "undeliv"),
        (EventKind.LATE_BOUNCED, "hard", "hbounce"),
        (EventKind.EXPIRED, "", "undeliv"),
        (EventKind.STOPPED, "", "suppress"),
        (EventKind.COMPLAINED, "", "complain"),
        (EventKind.REPLIED, "", "reply"),
    ],
)
def test_each_kind_has_the_model_products_name(
    kind: EventKind, bounce_type: str, name: str
) -> None:
    assert reference_name(kind, bounce_type=bounce_type) == name


@pytest.mark.parametrize("kind", EventKind)
def test_no_kind_is_without_the_model_products_name(kind: EventKind) -> None:
    assert reference_name(kind, bounce_type="")


def test_a_repeat_has_the_same_id_and_anything_else_another() -> None:
    made = {"message_id": MESSAGE, "recipient_no": 1, "claim_no": 2, "kind": EventKind.DEFERRED}
    other = {
        "message_id": uuid5(MESSAGE, "x"),
        "recipient_no": 2,
        "claim_no": 3,
        "kind": EventKind.BOUNCED,
    }
    same = event_id(**made)  # type: ignore[arg-type]
    assert same == event_id(**made)  # type: ignore[arg-type]
    assert len(same) == 32
    changed = {event_id(**made | {key: other[key]}) for key in made}  # type: ignore[arg-type]
    assert len(changed | {same}) == 5


def test_numbers_that_lie_side_by_side_are_told_apart() -> None:
    one = event_id(message_id=MESSAGE, recipient_no=1, claim_no=12, kind=EventKind.BOUNCED)
    two = event_id(message_id=MESSAGE, recipient_no=11, claim_no=2, kind=EventKind.BOUNCED)
    assert one != two


def test_a_recipient_is_counted_under_a_hash_of_32_digits() -> None:
    assert len(recipient_hash("anna@example.com")) == 32
    assert recipient_hash("anna@example.com") != recipient_hash("anne@example.com")


TEXTS = {f.name: st.text(max_size=20) for f in fields(Event) if f.type == "str"}
NUMBERS = {f.name: st.integers(0, 2**53) for f in fields(Event) if f.type == "int"}


@given(st.lists(st.builds(Event, **TEXTS, **NUMBERS), max_size=5))
def test_a_body_comes_out_as_it_went_in(events: list[Event]) -> None:
    assert list(decode_lines(encode_lines(events))) == events


def test_fields_that_say_nothing_are_left_out_of_a_body() -> None:
    [line] = raw_lines(encode_lines([EVENT])).splitlines()
    assert set(json.loads(line)) == {
        "event_id", "kind", "occurred_ms", "message_id", "claim_no", "account_id",
    }  # fmt: skip


def test_one_event_is_one_line_whatever_its_text_holds() -> None:
    odd = replace(EVENT, reply="two\nlines\r\u2028and\x85more", custom='{"a":"\\n"}')
    body = encode_lines([odd, EVENT])
    assert raw_lines(body).count(b"\n") == 1
    assert list(decode_lines(body)) == [odd, EVENT]


def test_fields_of_a_newer_writer_are_passed_over() -> None:
    lines = json.dumps({"kind": "delivered", "later": [1]}).encode()
    [event] = decode_lines(b"E1" + zlib.compress(lines))
    assert (event.kind, event.account_id) == ("delivered", 0)


@pytest.mark.parametrize(
    ("body", "reason"), [(b"E2abc", "version"), (b"", "version"), (b"E1abc", "damaged")]
)
def test_a_body_that_is_not_ours_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        raw_lines(body)


def test_every_field_of_an_event_is_a_number_or_a_text() -> None:
    assert set(TEXTS) | set(NUMBERS) == set(FIELDS)

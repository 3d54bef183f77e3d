"""Columns, touched minutes, histograms, and which events stop an address."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.errors import SchemaError
from mailcore.events import FIELDS, Event, EventKind, encode_lines, event_id
from mailcore.outcome import BounceClass, BounceType
from mailcore.stats import (
    BUCKETS_PER_DOUBLING,
    NUMBERS,
    bucket_value,
    lines_of,
    quantile,
    stop_entries,
    stop_entry,
    touched_minutes,
)
from mailcore.stoplist import StopCause, StopEntry

MESSAGE = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
DELIVERED = Event(
    event_id=event_id(message_id=MESSAGE, recipient_no=0, claim_no=1, kind=EventKind.DELIVERED),
    kind="delivered",
    occurred_ms=60_000,
    message_id=str(MESSAGE),
    recipient_no=0,
    claim_no=1,
    account_id=7,
    recipient="ann@example.com",
    recipient_hash="ab" * 16,
)
GONE = replace(
    DELIVERED,
    kind="bounced",
    bounce_type="hard",
    bounce_class="invalid_recipient",
    reply="550 5.1.1 no such user",
)
STOP = StopEntry(7, "ab" * 16, "ann@example.com", StopCause.HARD_BOUNCE, "550 5.1.1 no such user")


def minutes(*events: Event) -> set[int]:
    return touched_minutes(lines_of(encode_lines(events)))


def test_fields_are_numbers_or_texts_by_their_type() -> None:
    assert set(FIELDS) >= NUMBERS
    assert {"occurred_ms", "code", "queue_ms", "policy_revision"} <= NUMBERS
    assert not {"event_id", "message_id", "reply", "custom"} & NUMBERS


def test_the_minutes_of_events_are_read_off_their_lines() -> None:
    times = [0, 59_999, 60_000, 119_999, 1_772_366_400_123]
    events = [replace(DELIVERED, occurred_ms=ms) for ms in times]
    assert minutes(*events) == {0, 1, 29_539_440}
    assert minutes() == set()


def test_no_text_of_an_event_is_taken_for_its_time() -> None:
    sly = replace(DELIVERED, custom='{"occurred_ms":999000000}', reply='"occurred_ms":888000000')
    assert minutes(sly) == {1}


@given(st.lists(st.integers(0, 2**42), max_size=20), st.text(max_size=30))
def test_touched_minutes_are_those_of_the_events(times: list[int], text: str) -> None:
    events = [replace(DELIVERED, occurred_ms=ms, custom=text, reply=text) for ms in times]
    assert minutes(*events) == {ms // 60_000 for ms in times}


def test_every_line_of_a_body_is_ended() -> None:
    assert lines_of(encode_lines([DELIVERED, GONE])).count(b"\n") == 2
    assert lines_of(encode_lines([])) == b""
    with pytest.raises(SchemaError):
        lines_of(b"E2")


@given(st.integers(0, 10**9))
def test_the_value_of_a_bucket_is_near_every_time_in_it(ms: int) -> None:
    bucket = 0
    while (ms + 1) ** BUCKETS_PER_DOUBLING >= 2 ** (bucket + 1):
        bucket += 1
    assert bucket_value(bucket) + 1 == pytest.approx(ms + 1, rel=0.1)


def test_quantiles_are_read_off_a_histogram() -> None:
    histogram = {40: 90, 0: 5, 80: 5}
    assert quantile(histogram, 0.01) == bucket_value(0)
    assert quantile(histogram, 0.5) == bucket_value(40)
    assert quantile(histogram, 0.95) == bucket_value(40)
    assert quantile(histogram, 1.0) == bucket_value(80)
    assert quantile({}, 0.5) is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile(histogram, 1.5)


def test_an_address_that_is_gone_is_stopped_for_its_account() -> None:
    assert stop_entry(GONE) == STOP
    inactive = replace(GONE, kind="late_bounced", bounce_class="inactive_mailbox")
    assert stop_entry(inactive) == STOP


@pytest.mark.parametrize("bounce_class", list(BounceClass))
@pytest.mark.parametrize("bounce_type", list(BounceType))
def test_only_a_hard_bounce_of_a_class_that_says_gone_stops(
    bounce_type: BounceType, bounce_class: BounceClass
) -> None:
    event = replace(GONE, bounce_type=bounce_type.value, bounce_class=bounce_class.value)
    gone = {BounceClass.INVALID_RECIPIENT, BounceClass.INACTIVE_MAILBOX}
    expected = bounce_type is BounceType.HARD and bounce_class in gone
    assert (stop_entry(event) is not None) is expected


@pytest.mark.parametrize("kind", list(EventKind))
def test_only_these_kinds_of_events_stop_an_address(kind: EventKind) -> None:
    causes = {
        EventKind.BOUNCED: StopCause.HARD_BOUNCE,
        EventKind.LATE_BOUNCED: StopCause.HARD_BOUNCE,
        EventKind.COMPLAINED: StopCause.COMPLAINT,
        EventKind.UNSUBSCRIBED: StopCause.UNSUBSCRIBED,
    }
    event = replace(GONE, kind=kind.value)
    entry = stop_entry(event)
    assert (entry.cause if entry else None) is causes.get(kind)
    # What a look at a whole body finds is what a look at each event finds.
    assert list(stop_entries(encode_lines([DELIVERED, event]))) == ([entry] if entry else [])


def test_a_reply_of_any_bytes_makes_a_detail_that_can_be_stored() -> None:
    entry = stop_entry(replace(GONE, reply="550 a\0b" + "x" * 9999))
    assert entry is not None
    assert entry.detail.startswith("550 a\ufffdbxxx")
    assert len(entry.detail) == 500


def test_no_event_stops_an_address_for_all_accounts_or_one_it_does_not_name() -> None:
    assert stop_entry(replace(GONE, account_id=0)) is None
    assert stop_entry(replace(GONE, recipient_hash="")) is None


def test_an_address_is_named_once_by_the_first_event_that_stops_it() -> None:
    complaint = replace(GONE, kind="complained")
    other = replace(GONE, account_id=8)
    found = stop_entries(encode_lines([GONE, complaint, other]))
    assert sorted(found, key=lambda entry: entry.account_id) == [STOP, replace(STOP, account_id=8)]


@pytest.mark.parametrize(
    "text",
    [
        b'{"kind":"complained","account_id":"7","recipient_hash":"a"}',
        b'{"kind":"bounced"',
        b'["kind","complained",{"kind":"complained"}]',
        b'{"kind":"bounced","bounce_type":"hard","bounce_class":[]}',
        json.dumps(
            {"kind": "complained", "account_id": 1, "recipient_hash": "a", "reply": 1}
        ).encode(),
    ],
)
def test_a_damaged_line_is_a_schema_error(text: bytes) -> None:
    with pytest.raises(SchemaError):
        stop_entries(b"E1" + zlib.compress(text))

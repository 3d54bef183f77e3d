"""What a message tells us in its header, what we write on it, and who comes too often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from mailcore.address import ReversePath
from mailcore.errors import SubmissionRefused
from mailcore.reception import Identity, Letter, Meter, read_orders, received_field
from mailcore.reception.values import protocol_name
from mailcore.render import repair

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
LETTER = Letter(Identity(1), ReversePath("", ""), (), b"", ehlo="pc.test", protocol="ESMTPSA")


def header(*fields: str) -> bytes:
    return (
        "".join(f"{field}\r\n" for field in ("From: a@shop.test", *fields)).encode() + b"\r\nx\r\n"
    )


def test_a_message_without_our_fields_asks_for_nothing() -> None:
    assert read_orders(header("Subject: X-Postfleet-Campaign: no")) == {}
    assert read_orders(b"") == {}
    assert read_orders(header("Subject: x") + b"X-Postfleet-Campaign: in the body\r\n") == {}


def test_our_fields_are_read_as_the_api_names_them() -> None:
    assert read_orders(
        header(
            "X-Postfleet-Campaign: =?utf-8?Q?fr=C3=BChling?=",
            "x-postfleet-priority: True",
            "X-Postfleet-Send-At: 2026-01-31T09:30:00Z",
            "X-Postfleet-Expires-At: 2026-02-01T09:30:00Z",
            "X-Postfleet-Idempotency-Key: order-12",
            "X-Postfleet-Sender: 12",
            'X-Postfleet-Custom: {"order":\r\n "12"}',
            "X-Postfleet-Token: of a message that was forwarded",
        )
    ) == {
        "campaign": "frühling",
        "priority": True,
        "send_at": "2026-01-31T09:30:00Z",
        "expires_at": "2026-02-01T09:30:00Z",
        "idempotency_key": "order-12",
        "sender": 12,
        "custom": {"order": "12"},
    }
    assert read_orders(header("X-Postfleet-Sender: bulk")) == {"sender": "bulk"}


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("X-Postfleet-Campain: spring", "X-Postfleet-Campain: there is no such field"),
        ("X-Postfleet-Custom: {", "X-Postfleet-Custom: an object in JSON"),
        ("X-Postfleet-Idempotency-Key: a b", "X-Postfleet-Idempotency-Key: a key has"),
        ("X-Postfleet-Priority: 1\r\nX-Postfleet-Priority: 1", "stands more than once"),
    ],
)
def test_a_field_nobody_understands_is_refused_by_name(field: str, named: str) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        read_orders(header(field))
    assert named in str(refused.value)


def test_our_fields_are_gone_from_what_is_sent() -> None:
    content = header("X-Postfleet-Campaign: spring", "Subject: x")
    sent = repair(content, message_id=UUID(int=1), date=NOW).content
    assert b"postfleet-campaign" not in sent.lower()


def test_received_tells_the_protocol_and_hides_the_client() -> None:
    stamp = received_field(LETTER, host="mx.shop.test", queue_id="q1", at=NOW)
    assert stamp == (
        b"Received: from pc.test\r\n\tby mx.shop.test (Postfleet) with ESMTPSA id q1;\r\n"
        b"\tSat, 31 Jan 2026 09:30:00 +0000\r\n"
    )
    shown = received_field(LETTER, host="mx.shop.test", queue_id="q1", at=NOW, client="192.0.2.7")
    assert shown.startswith(b"Received: from pc.test ([192.0.2.7])\r\n\tby mx.shop.test")
    repaired = repair(shown + header(), message_id=UUID(int=1), date=NOW).content
    assert repaired.startswith(shown)


@pytest.mark.parametrize(
    ("ehlo", "client", "origin"),
    [
        ("pc.test", "2001:db8::7", "pc.test ([IPv6:2001:db8::7])"),
        ("pc.test", "fe80::7%eth0", "pc.test ([IPv6:fe80::7])"),
        ("[192.0.2.7]", "192.0.2.7", "[192.0.2.7] ([192.0.2.7])"),
        ("[192.0.2.7]", "", "unknown"),
    ],
)
def test_received_names_addresses_as_literals_or_not_at_all(
    ehlo: str, client: str, origin: str
) -> None:
    letter = replace(LETTER, ehlo=ehlo)
    stamp = received_field(letter, host="mx.shop.test", queue_id="q1", at=NOW, client=client)
    assert stamp.startswith(f"Received: from {origin}\r\n\tby mx.shop.test ".encode())


@pytest.mark.parametrize(
    ("extended", "utf8", "tls", "auth", "word"),
    [
        (False, False, True, True, "SMTP"),
        (True, False, False, False, "ESMTP"),
        (True, False, True, False, "ESMTPS"),
        (True, False, True, True, "ESMTPSA"),
        (True, True, True, True, "UTF8SMTPSA"),
    ],
)
def test_protocols_have_the_names_of_rfc_3848(
    *, extended: bool, utf8: bool, tls: bool, auth: bool, word: str
) -> None:
    assert word == protocol_name(
        is_extended=extended, is_utf8=utf8, is_tls=tls, is_authenticated=auth
    )


def test_a_meter_counts_by_key_and_forgets_with_time() -> None:
    meter = Meter(2, 60.0)
    assert [meter.count("a", 0.0), meter.count("a", 1.0), meter.count("a", 59.0)] == [
        True,
        True,
        False,
    ]
    assert meter.is_spent("a", 59.0)
    assert not meter.is_spent("b", 59.0)
    assert meter.count("b", 59.0)
    assert meter.count("a", 60.0)
    assert not meter.is_spent("a", 60.0)


def test_a_meter_without_a_limit_never_refuses() -> None:
    meter = Meter(0, 60.0)
    assert all(meter.count("a", 0.0) for _ in range(100))
    assert not meter.is_spent("a", 0.0)


def test_a_meter_does_not_grow_with_strangers() -> None:
    meter = Meter(1, 60.0)
    for number in range(100_001):
        meter.count(number, 0.0)
    assert meter.count(0, 1.0), "the oldest were forgotten to make room"
    assert not meter.count(100_000, 1.0)

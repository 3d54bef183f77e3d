"""Messages go in over HTTP: 202 when they are ours, else a problem that points at the fault."""

import base64
import email
import email.policy
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.test.utils import CaptureQueriesContext

from control.accounts.models import Account
from control.api.authentication import token_memory
from control.submission import services
from mailcore.events import recipient_hash
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import StoreUnavailable
from tests.control.api.conftest import Api, FixedPolicy, body_of, message, problem_of

pytestmark = pytest.mark.django_db

RAW = b"From: Acme <news@acme.test>\nTo: a@x.test\nSubject: hi\n\nbody\n"


def raw_message(raw: bytes = RAW, **changes: Any) -> dict[str, Any]:
    return {"raw": base64.b64encode(raw).decode(), "recipients": ["a@x.test"], **changes}


def test_a_message_is_answered_once_it_is_on_disk(api: Api) -> None:
    response = api.send(
        message(to=["a@x.test", "A@x.test", "nobody"], bcc="b@x.test", campaign="spring")
    )
    assert response.status_code == 202, response.content
    answer = body_of(response)
    assert [(r["recipient"], r["accepted"], r["reason"]) for r in answer["recipients"]] == [
        ("a@x.test", True, None),
        ("A@x.test", False, "duplicate"),
        ("nobody", False, "malformed_address"),
        ("b@x.test", True, None),
    ]
    rows = api.query("SELECT message_id::text, recipient, recipient_no FROM ledger_row ORDER BY id")
    assert rows == [
        (answer["message_id"], "a@x.test", 0),
        (answer["message_id"], "b@x.test", 3),
    ]
    content, same = api.contents()
    assert content == same
    assert content is not None
    assert b"nobody" not in content
    assert b"b@x.test" not in content
    kinds = sorted(event.kind for event in api.events())
    assert kinds == ["accepted", "accepted", "rejected", "rejected"]


def test_a_raw_message_with_an_8bit_part_arrives_as_it_was(api: Api) -> None:
    part = "наивный\r\n".encode() * 1000
    raw = (
        "From: news@acme.test\r\nSubject: Привет\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    ).encode() + part
    assert api.send(raw_message(raw)).status_code == 202
    (content,) = api.contents()
    assert content is not None
    assert content.endswith(b"\r\n\r\n" + part)
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert parsed["Subject"] == "Привет"


def test_a_bare_message_takes_its_envelope_from_the_query(api: Api) -> None:
    path = "/api/v2/messages?recipient=a@x.test&recipient=b@x.test&priority=priority&sender=bulk"
    response = api.post(path, RAW, "message/rfc822")
    assert response.status_code == 202, response.content
    rows = api.query(
        "SELECT recipient, mail_class FROM ledger_row r JOIN ledger_lane l"
        " ON l.id = r.lane_id ORDER BY r.id"
    )
    assert rows == [("a@x.test", 0), ("b@x.test", 0)]
    assert problem_of(api.post(path + "&x=1", RAW, "message/rfc822")) == [("", "unknown_parameter")]
    assert problem_of(api.post("/api/v2/messages", RAW, "message/rfc822")) == [
        ("/recipients", "required")
    ]


def test_a_list_is_answered_message_by_message(api: Api) -> None:
    response = api.send(
        {"messages": [message(), message(subject="a\nb"), message(to=["c@x.test"])]}
    )
    assert response.status_code == 202
    first, second, third = body_of(response)["results"]
    assert first["recipients"][0]["recipient"] == "a@x.test"
    assert second["message_id"] is None
    assert second["problem"]["status"] == 422
    assert second["problem"]["errors"][0]["pointer"] == "/messages/1/subject"
    assert third["recipients"][0]["recipient"] == "c@x.test"
    assert api.query("SELECT recipient FROM ledger_row ORDER BY id") == [
        ("a@x.test",),
        ("c@x.test",),
    ]
    assert api.query("SELECT count(*) FROM ledger_outbox") == [(1,)]


def test_a_list_of_which_nothing_can_be_taken_is_refused(api: Api) -> None:
    response = api.send({"messages": [message(to=["x"]), 5]})
    assert response.status_code == 422
    assert problem_of(response) == [
        ("/messages/0/to/0", "malformed_address"),
        ("/messages/1", "type"),
        ("/messages/1/to", "required"),
        ("/messages/1/text", "required"),
        ("/messages/1/from", "required"),
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"messages": []}, ("/messages", "type")),
        ({"messages": {}}, ("/messages", "type")),
        ({"messages": [{}] * 1001}, ("/messages", "type")),
        ({"messages": [{}], "from": "a"}, ("/from", "unknown_field")),
    ],
)
def test_a_list_that_is_none_is_refused(api: Api, body: Any, problem: tuple[str, str]) -> None:
    response = api.send(body)
    assert response.status_code == 422
    assert problem in problem_of(response)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (message(sender="nobody's"), ("/sender", "unknown_sender")),
        (message(**{"from": "a@other.test"}), ("/from", "from_domain_not_allowed")),
        (message(**{"from": "nobody"}), ("/from", "malformed_address")),
        (message(to=["a@b@x.test"]), ("/to/0", "malformed_address")),
        (message(subject="a\r\nBcc: b@x.test"), ("/subject", "control_character")),
        (
            message(**{"from": {"address": "a@acme.test", "name": "A\r\nB"}}),
            ("/from/name", "control_character"),
        ),
        (message(text="x" * 26 * 2**20), ("", "too_large")),
        (raw_message() | {"raw": "no base64!"}, ("/raw", "base64")),
        (message(attachments=[{"content": "?"}]), ("/attachments/0/content", "base64")),
        (message(subjct="x"), ("/subjct", "unknown_field")),
        (message(expires_at="2020-01-01T00:00:00Z"), ("/expires_at", "too_early")),
    ],
)
def test_bad_input_is_a_problem_with_a_pointer(
    api: Api, body: Any, problem: tuple[str, str]
) -> None:
    response = api.send(body)
    assert response.status_code == 422
    assert problem_of(response) == [problem]
    assert api.query("SELECT count(*) FROM ledger_row") == [(0,)]


@pytest.mark.parametrize(
    "body", [b" ", b"{", b"\xff{}", b'{"a": NaN}', b"[" * 100_000, b'"\\ud800"x']
)
def test_a_body_that_is_no_json_is_a_problem(api: Api, body: bytes) -> None:
    response = api.send(body)
    assert response.status_code == 400
    assert problem_of(response) == [("", "malformed_json")]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_another_media_type_is_a_problem(api: Api, kind: str) -> None:
    response = api.post("/api/v2/messages", b"{}", kind)
    assert response.status_code == 415
    assert problem_of(response) == [("", "media_type")]


def test_an_inactive_account_is_refused(api: Api) -> None:
    Account.objects.filter(pk=api.house.account.pk).update(is_active=False)
    opened = services.door()
    policy = opened.policy
    assert isinstance(policy, FixedPolicy)
    policy.snapshot = PolicySnapshot(revision=2)
    response = api.send(message())
    assert response.status_code == 403
    assert problem_of(response) == [("", "account_inactive")]


def test_a_stopped_recipient_is_accepted_and_told_so(api: Api) -> None:
    api.query(
        "INSERT INTO stop_entry (recipient_hash, recipient, reason) VALUES (%s, 'a', 'complaint')",
        recipient_hash("a@x.test"),
    )
    answer = body_of(api.send(message()))
    assert answer["recipients"] == [
        {"recipient": "a@x.test", "accepted": True, "reason": "stopped", "detail": "complaint"}
    ]
    assert [event.kind for event in api.events()] == ["accepted", "stopped"]


def test_a_repeated_request_gets_the_first_answer_and_sends_nothing(api: Api) -> None:
    first = api.send(message(), Idempotency_Key="order-12")
    again = api.send(message(), Idempotency_Key="order-12")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.content == again.content
    assert "Idempotency-Replayed" not in first
    assert again["Idempotency-Replayed"] == "true"
    assert api.query("SELECT count(*) FROM ledger_row") == [(1,)]


def test_a_key_used_with_another_body_is_a_problem(api: Api) -> None:
    api.send(message(), Idempotency_Key="order-12")
    response = api.send(message(subject="other"), Idempotency_Key="order-12")
    assert response.status_code == 422
    assert problem_of(response) == [("", "idempotency_key_reused")]
    assert body_of(response)["errors"][0]["header"] == "Idempotency-Key"
    assert api.query("SELECT count(*) FROM ledger_row") == [(1,)]


@pytest.mark.parametrize("key", ["a b", "x" * 256, "ключ"])
def test_a_malformed_key_is_a_problem(api: Api, key: str) -> None:
    response = api.send(message(), Idempotency_Key=key)
    assert response.status_code == 400
    assert problem_of(response) == [("", "idempotency_key")]


def test_a_store_that_is_away_is_a_503_with_a_time_to_come_back(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(contents: object, *, is_urgent: bool) -> None:
        raise StoreUnavailable("spool", "disk /secret/place is full")

    monkeypatch.setattr(services.door().intake._spool, "append", fail)
    response = api.send(message())
    assert response.status_code == 503
    assert int(response["Retry-After"]) > 0
    assert problem_of(response) == [("", "store_unavailable")]
    assert b"secret" not in response.content


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_ends_our_session_is_a_503_not_a_500(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(clear: str) -> None:
        raise error("server closed the connection unexpectedly at 192.0.2.7")

    monkeypatch.setattr(token_memory(), "token", fail)
    response = api.send(message())
    assert response.status_code == 503
    assert int(response["Retry-After"]) > 0
    assert problem_of(response) == [("", "store_unavailable")]
    assert b"192.0.2.7" not in response.content


def test_an_unforeseen_error_tells_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("the password is 12345")

    monkeypatch.setattr(services, "plan_submission", fail)
    response = api.send(message())
    assert response.status_code == 500
    assert problem_of(response) == [("", "internal_error")]
    assert b"12345" not in response.content


def test_sending_costs_one_query_and_then_none(api: Api) -> None:
    assert api.send(message()).status_code == 202  # the token's first use is noted
    token_memory.cache_clear()
    with CaptureQueriesContext(connection) as looked_up:
        assert api.send(message()).status_code == 202
    assert len(looked_up) == 1
    with CaptureQueriesContext(connection) as remembered:
        assert api.send({"messages": [message()] * 50}).status_code == 202
    assert len(remembered) == 0


def test_a_thousand_messages_and_a_thousand_recipients_go_in_one_request(api: Api) -> None:
    many = {"messages": [message(to=[f"u{number}@x.test"]) for number in range(1000)]}
    assert len(body_of(api.send(many))["results"]) == 1000
    one = message(recipients=[f"v{number}@x.test" for number in range(1000)])
    assert len(body_of(api.send(one))["recipients"]) == 1000
    assert api.query("SELECT count(*), count(DISTINCT content_offset) FROM ledger_row") == [
        (2000, 1001)
    ]

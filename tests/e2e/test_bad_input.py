"""Bad input over HTTP: a problem document that names the place, and nothing is accepted."""

import base64
from typing import Any

import pytest

from tests.support.fleet import Answer, Running

GOOD: dict[str, Any] = {
    "from": "news@sender.test",
    "to": ["reader@accepta.test"],
    "subject": "Sound",
    "text": "A sound message.",
}
RAW = b"From: news@sender.test\r\nSubject: Big\r\n\r\n"


def raw(content: bytes) -> dict[str, Any]:
    return {"raw": base64.b64encode(content).decode(), "recipients": ["reader@accepta.test"]}


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown sender": ({**GOOD, "sender": "nobody"}, "unknown_sender", "/sender"),
    "From domain of somebody else": (
        {**GOOD, "from": "news@other.test"},
        "from_domain_not_allowed",
        "/from",
    ),
    "From domain of somebody else in a raw message": (
        raw(b"From: news@other.test\r\nSubject: x\r\n\r\nx\r\n"),
        "from_domain_not_allowed",
        "/raw",
    ),
    "malformed address": ({**GOOD, "to": ["reader@@accepta.test"]}, "malformed_address", "/to/0"),
    "malformed From": ({**GOOD, "from": "news"}, "malformed_address", "/from"),
    "line end in the subject": (
        {**GOOD, "subject": "Hello\r\nBcc: all@accepta.test"},
        "control_character",
        "/subject",
    ),
    "line end in a name": (
        {**GOOD, "to": [{"address": "reader@accepta.test", "name": "A\r\nX-Evil: yes"}]},
        "control_character",
        "/to/0/name",
    ),
    "line end in a header field": (
        {**GOOD, "headers": {"X-Kind": "a\r\nX-Evil: yes"}},
        "control_character",
        "/headers/X-Kind",
    ),
    "larger than the account may send": (
        raw(RAW + (b"x" * 76 + b"\r\n") * (26 * 2**20 // 78)),
        "too_large",
        "/raw",
    ),
    "invalid base64": ({**raw(RAW), "raw": "!no base64!"}, "base64", "/raw"),
    "invalid base64 of an attachment": (
        {**GOOD, "attachments": [{"filename": "a.bin", "content": "%%%"}]},
        "base64",
        "/attachments/0/content",
    ),
    "unknown field": ({**GOOD, "subjekt": "Hello"}, "unknown_field", "/subjekt"),
}


def rows_ever(running: Running) -> int:
    """How many rows the ledger ever made: what was accepted and is gone again counts too."""
    sequence = "pg_sequence_last_value(pg_get_serial_sequence('ledger_row', 'id')::regclass)"
    return int(running.one(f"SELECT COALESCE({sequence}, 0)"))


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """Return the only error of a problem document."""
    assert (answer.status, answer.media_type) == (status, "application/problem+json"), answer.body
    document = answer.json()
    assert (document["status"], document["detail"]) == (status, document["errors"][0]["detail"])
    assert document["type"].endswith(f":{document['errors'][0]['code']}")
    assert b"Traceback" not in answer.body
    (error,) = document["errors"]
    assert error["detail"]
    return dict(error)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_with_a_pointer_and_nothing_is_accepted(
    running: Running, case: str
) -> None:
    document, code, pointer = CASES[case]
    before = rows_ever(running)
    error = problem(running.api.post(document), 422)
    assert (error["code"], error["pointer"]) == (code, pointer)
    assert rows_ever(running) == before


def test_every_fault_of_a_message_is_named_at_once(running: Running) -> None:
    answer = running.api.post(
        {**GOOD, "subject": "a\rb", "send_at": "tomorrow", "subjekt": "x", "text": 7}
    )
    assert answer.status == 422
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"/subject", "/send_at", "/subjekt", "/text"}


def test_in_a_list_the_pointer_names_the_message(running: Running) -> None:
    before = rows_ever(running)
    answer = running.api.post({"messages": [{**GOOD, "from": "x@other.test"}, {"to": []}]})
    assert (answer.status, answer.media_type) == (422, "application/problem+json")
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert pointers[0] == "/messages/0/from"
    assert all(one.startswith(("/messages/0/", "/messages/1/")) for one in pointers)
    assert rows_ever(running) == before


def test_a_request_beyond_the_limit_is_answered_not_cut_off(running: Running) -> None:
    before = rows_ever(running)
    body = b'{"raw": "' + b"A" * (65 * 2**20) + b'"}'
    answer = running.api.call("POST", "/messages", body, {"Content-Type": "application/json"})
    assert problem(answer, 413)["code"] == "request_too_large"
    assert rows_ever(running) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer pf_nobody-has-this-token"},
        {"Authorization": "Basic b3BlcmF0b3I6eA=="},
        {"Authorization": ""},
    ],
    ids=["unknown token", "another scheme", "no token"],
)
def test_without_the_right_token_nobody_is_heard(running: Running, headers: dict[str, str]) -> None:
    before = rows_ever(running)
    answer = running.api.call("POST", "/messages", b"{}", headers)
    assert problem(answer, 401)["header"] == "Authorization"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert rows_ever(running) == before


def test_an_idempotency_key_serves_one_body(running: Running) -> None:
    key = {"Idempotency-Key": "e2e-one-body", "Content-Type": "application/json"}
    first = running.api.post(GOOD, **key)
    assert first.status == 202
    before = rows_ever(running)
    again = running.api.post(GOOD, **key)
    assert (again.status, again.body) == (202, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    error = problem(running.api.post({**GOOD, "subject": "Another"}, **key), 422)
    assert (error["code"], error["header"]) == ("idempotency_key_reused", "Idempotency-Key")
    assert rows_ever(running) == before


def test_what_is_no_json_is_refused(running: Running) -> None:
    answer = running.api.call("POST", "/messages", b"{", {"Content-Type": "application/json"})
    assert problem(answer, 400)["code"] == "malformed_json"


def test_a_message_nobody_sent_is_not_found(running: Running) -> None:
    for name in ("0190a0a0-0000-7000-8000-000000000000", "no-uuid", "..%2f..%2fetc"):
        problem(running.api.call("GET", f"/messages/{name}"), 404)

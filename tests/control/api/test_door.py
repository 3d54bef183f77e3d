"""Who may come in, and what every other request is told."""

import gzip
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIRequest
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from rest_framework.exceptions import Throttled, ValidationError

from control.accounts.models import ApiToken
from control.accounts.services import issue_token
from control.api.authentication import TokenMemory, token_memory
from control.api.base import read_body
from control.api.problems import ApiError, handle
from tests.control.api.conftest import Api, body_of, message, new_token, problem_of
from tests.control.conftest import SYSTEM, House

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", "not_authenticated"),
        ("Basic YTpi", "authentication_failed"),
        ("Bearer", "invalid_token"),
        ("Bearer pf_wrong", "invalid_token"),
        ("Bearer nothing of ours", "invalid_token"),
        ("Bearer ключ", "invalid_token"),
    ],
)
def test_a_wrong_token_is_a_401(api: Api, value: str, code: str) -> None:
    response = api.send(message(), Authorization=value)
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert problem_of(response) == [("", code)]
    assert body_of(response)["errors"][0]["header"] == "Authorization"


def test_a_token_that_expired_or_was_switched_off_is_a_401(api: Api) -> None:
    tokens = ApiToken.objects.filter(account=api.house.account)
    for change in ({"is_active": False}, {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}):
        tokens.update(is_active=True, expires_at=None)
        token_memory.cache_clear()
        assert api.send(message()).status_code == 202
        tokens.update(**change)
        token_memory.cache_clear()
        assert problem_of(api.send(message())) == [("", "invalid_token")]


def test_a_token_without_the_scope_is_a_403(api: Api) -> None:
    reader = new_token(api.house, "messages:read", name="reader")
    response = api.send(message(), Authorization=f"Bearer {reader}")
    assert response.status_code == 403
    assert problem_of(response) == [("", "scope_missing")]


def test_a_token_of_the_installation_sends_no_mail(api: Api) -> None:
    _, clear = issue_token(name="admin", account=None, scopes=["admin"], actor=SYSTEM)
    response = api.send(message(), Authorization=f"Bearer {clear}")
    assert response.status_code == 403
    assert problem_of(response)[0][1] in ("scope_missing", "no_account")


def test_a_token_is_remembered_for_five_seconds_and_no_longer(house: House) -> None:
    clear = new_token(house, "messages:send")
    now = [100.0]
    memory = TokenMemory(monotonic=lambda: now[0])
    assert memory.token(clear) is not None
    ApiToken.objects.update(is_active=False)
    now[0] = 104.9
    with CaptureQueriesContext(connection) as asked:
        assert memory.token(clear) is not None
    assert len(asked) == 0
    now[0] = 105.1
    assert memory.token(clear) is None


def test_a_remembered_token_still_expires_on_time(house: House) -> None:
    clear = new_token(house, "messages:send")
    soon = datetime.now(UTC) + timedelta(hours=1)
    ApiToken.objects.update(expires_at=soon)
    memory = TokenMemory()
    token = memory.token(clear)
    assert token is not None
    token.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    assert memory.token(clear) is None


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v2/messages", 405),
        ("PUT", "/api/v2/messages", 405),
        ("DELETE", "/api/v2/messages/0190163d-8694-739b-aea5-966c26f8ad91", 405),
        ("GET", "/api/v2/messages/", 404),
        ("GET", "/api/v2/messages/not-an-id", 404),
        ("GET", "/api/v2/messages/0190163d-8694-739b-aea5-966c26f8ad91", 404),
        ("GET", "/api/v2/nothing", 404),
        ("POST", "/api/v3", 404),
        ("GET", "/api/", 404),
    ],
)
def test_a_path_or_method_that_is_not_there_is_a_problem(
    api: Api, method: str, path: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    response = api.client.generic(method, path, headers=headers)
    assert response.status_code == status
    assert problem_of(response)[0][0] == ""
    if status == 405:
        assert response["Allow"]


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (Throttled(wait=2.5), 429, "throttled"),
        (ValidationError({"a": ["b"]}), 400, "invalid"),
    ],
)
def test_errors_of_the_framework_are_problems_too(exc: Any, status: int, code: str) -> None:
    response = handle(exc, {})
    assert response.status_code == status
    assert problem_of(response) == [("", code)]
    if status == 429:
        assert response["Retry-After"] == "3"


def test_the_root_says_the_mode_to_anybody() -> None:
    client = Client()
    for path in ("/api/v2", "/api/v2/"):
        answer = body_of(client.get(path))
        assert answer == {
            "product": "postfleet",
            "version": "2",
            "mode": "lab",
            "schema": "/api/v2/schema",
        }


def test_what_the_client_would_rather_have_changes_nothing(api: Api) -> None:
    response = api.send(message(), Accept="text/html")
    assert (response.status_code, response["Content-Type"]) == (202, "application/json")


# ── how much may come in ──────────────────────────────────────────────────────────────────────


def wsgi(body: io.BytesIO, **environ: str) -> WSGIRequest:
    return WSGIRequest({"REQUEST_METHOD": "POST", "PATH_INFO": "/", "wsgi.input": body, **environ})


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000)
def test_a_request_that_is_too_large_is_a_413(api: Api) -> None:
    response = api.send(message(text="x" * 1000))
    assert response.status_code == 413
    assert problem_of(response) == [("", "request_too_large")]
    assert response["Connection"] == "close"


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=200_000)
def test_no_more_of_a_body_is_kept_than_may_come_in() -> None:
    endless = io.BytesIO(b"x" * 2_000_000)
    with pytest.raises(ApiError) as caught:
        read_body(wsgi(endless, HTTP_TRANSFER_ENCODING="chunked"))
    assert caught.value.status == 413
    assert endless.tell() < 600_000
    declared = io.BytesIO(b"x" * 2_000_000)
    with pytest.raises(ApiError):
        read_body(wsgi(declared, CONTENT_LENGTH="2000000"))
    assert declared.tell() <= 300_000


def test_a_chunked_body_is_read_and_a_wrong_length_is_refused() -> None:
    assert read_body(wsgi(io.BytesIO(b"abc"), HTTP_TRANSFER_ENCODING="chunked")) == b"abc"
    assert read_body(wsgi(io.BytesIO(b"abc"), CONTENT_LENGTH="2")) == b"ab"
    assert read_body(wsgi(io.BytesIO(b"abc"))) == b""
    with pytest.raises(ApiError) as caught:
        read_body(wsgi(io.BytesIO(b"abc"), CONTENT_LENGTH="two"))
    assert caught.value.status == 400


def test_a_body_in_another_coding_is_no_json(api: Api) -> None:
    response = api.send(gzip.compress(b"{}"), Content_Encoding="gzip")
    assert response.status_code == 400
    assert problem_of(response) == [("", "malformed_json")]

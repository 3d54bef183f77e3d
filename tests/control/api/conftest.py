"""A door on real stores, a program with a token, and what came through."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import psycopg2
import pytest
from django.db import connection
from django.test import Client

from control.accounts.models import Account
from control.accounts.services import issue_token
from control.api.authentication import token_memory
from control.policy.compiler import compile_policy
from control.submission import services
from mailcore.envelope import ContentRef
from mailcore.events import Event, decode_lines
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import StoreUnavailable
from mailio.clock import LedgerClock
from mailio.intake import Intake
from mailio.ledger.accept import Acceptor
from mailio.ledger.outbox import PgOutbox
from mailio.settings import Settings
from mailio.spool.segments import SegmentSpool
from tests.control.conftest import SYSTEM, House

# Emptied row by row: Django's transaction of the test may still hold a lock on them.
_TABLES = (
    "ledger_row",
    "ledger_lane",
    "ledger_outbox",
    "ledger_idempotency",
    "stop_entry",
    "campaign",
    "queue_finding",
    "queue_check",
    "queue_age",
)


class Told:
    """Statistics that hold what they were told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.is_away = False

    def insert(self, bodies: Sequence[bytes]) -> int:
        """Take nothing: tests fill `rows`."""
        return 0

    def touch(self, minutes: Sequence[int]) -> None:
        """Note nothing."""

    def touched(self) -> Sequence[int]:
        """No minute is to be computed."""
        return []

    def recompute(self, minutes: Sequence[int]) -> None:
        """Compute nothing."""

    def trace(self, message_id: UUID) -> Sequence[dict[str, object]]:
        """Return the message's rows."""
        if self.is_away:
            raise StoreUnavailable("clickhouse", "away")
        return [row for row in self.rows if row["message_id"] == str(message_id)]


class FixedPolicy:
    """A PolicySource with one snapshot."""

    def __init__(self, snapshot: PolicySnapshot) -> None:
        self.snapshot = snapshot

    def current(self) -> PolicySnapshot:
        """Return it."""
        return self.snapshot


class Quiet:
    """A Waker that wakes nobody."""

    def wake(self) -> None:
        """Do nothing."""


@dataclass
class Api:
    """A program that calls the API, and a look behind it."""

    client: Client
    house: House
    token: str
    url: str
    spool: SegmentSpool
    statistics: Told
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, body: Any, **headers: str) -> Any:
        """POST messages as JSON."""
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.post("/api/v2/messages", raw, "application/json", **headers)

    def post(self, path: str, raw: bytes | str, kind: str, **headers: str) -> Any:
        """POST anything."""
        return self.client.generic(
            "POST", path, raw, content_type=kind, headers=self._headers(headers)
        )

    def get(self, path: str, **headers: str) -> Any:
        """GET."""
        return self.client.get(path, headers=self._headers(headers))

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Ask the database outside of Django's transaction."""
        line = psycopg2.connect(self.url)
        try:
            with line, line.cursor() as cursor:
                cursor.execute(sql, params)
                return cursor.fetchall() if cursor.description else []
        finally:
            line.close()

    def contents(self) -> list[bytes | None]:
        """Return the stored content of every queued row."""
        rows = self.query(
            "SELECT content_segment, content_offset, content_length, content_crc"
            " FROM ledger_row ORDER BY id"
        )
        return self.spool.read_now([ContentRef(*row) for row in rows])

    def events(self) -> list[Event]:
        """Return all that happened."""
        bodies = self.query("SELECT body FROM ledger_outbox ORDER BY id")
        return [event for (body,) in bodies for event in decode_lines(bytes(body))]

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        given = {"Authorization": f"Bearer {self.token}", **self.headers}
        given |= {name.replace("_", "-"): value for name, value in more.items()}
        return {name: value for name, value in given.items() if value}


def body_of(response: Any) -> Any:
    """Return what a response says."""
    return json.loads(response.content)


def message(**changes: Any) -> dict[str, Any]:
    """Return a message that is taken."""
    body: dict[str, Any] = {
        "from": "Acme <news@acme.test>",
        "to": ["a@x.test"],
        "subject": "hello",
        "text": "body",
    }
    return {name: value for name, value in (body | changes).items() if value is not ...}


def problem_of(response: Any) -> list[tuple[str, str]]:
    """Check that a response is a problem document; return its pointers and codes."""
    assert response["Content-Type"] == "application/problem+json"
    problem = body_of(response)
    assert set(problem) == {"type", "title", "status", "detail", "errors"}
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:postfleet:problem:{problem['errors'][0]['code']}"
    assert problem["detail"] == problem["errors"][0]["detail"]
    assert "Traceback" not in response.content.decode()
    return [(error["pointer"], error["code"]) for error in problem["errors"]]


def new_token(house: House, *scopes: str, name: str = "program") -> str:
    """Issue a token of the first account."""
    return issue_token(name=name, account=house.account, scopes=list(scopes), actor=SYSTEM)[1]


def database_url_of_tests(stores: Settings) -> str:
    """Return the URL of the database Django made for the tests."""
    name = connection.settings_dict["NAME"]
    return urlunsplit(urlsplit(stores.database_url)._replace(path=f"/{name}"))


@pytest.fixture
def api(house: House, stores: Settings, tmp_path: Path) -> Iterator[Api]:
    Account.objects.filter(pk=house.account.pk).update(default_sender=house.sender)
    token = new_token(house, "messages:send", "messages:read")
    url = database_url_of_tests(stores)
    with contextlib.ExitStack() as stack:
        acceptor = stack.enter_context(contextlib.closing(Acceptor(url)))
        spool = stack.enter_context(contextlib.closing(SegmentSpool(tmp_path, min_free_bytes=0)))
        outbox = stack.enter_context(contextlib.closing(PgOutbox(url)))
        clock, statistics = LedgerClock(), Told()
        door = services.Door(
            intake=Intake(acceptor, spool, clock=clock, waker=Quiet()),
            policy=FixedPolicy(compile_policy()),
            clock=clock,
            outbox=outbox,
            statistics=statistics,
            close=lambda: None,
        )
        services._Doors.opened[os.getpid()] = door
        stack.callback(services.close_door)
        stack.callback(token_memory.cache_clear)
        client = Client(raise_request_exception=False)
        yield Api(client, house, token, url, spool, statistics)
    line = psycopg2.connect(url)
    with contextlib.closing(line), line, line.cursor() as cursor:
        for table in _TABLES:
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608 (constants above)

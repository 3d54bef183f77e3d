"""The whole product, started for a test and asked from outside: HTTP, SQL, the lab's counts.

Gives    starting(): a running fleet in a directory, as a context; Running: api, lab, panel(),
         query(), statistics, load(); Seen, what the lab's receivers counted of one load;
         eventually(); environment_without_ours(); descendants(), working_in(), are_gone()
Raises   AssertionError when something does not come about within a generous time

Nothing here waits for a fixed time, and nothing touches Django's ORM: the product runs in other
processes.
"""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import re
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from celery import Celery

from control.management.fleet.house import House
from control.management.fleet.launch import FLOWER_USER, Fleet, read_token
from lab.client import LabClient
from lab.load import LoadPlan, send
from mailcore.bells import UpkeepBell
from mailio.broker import CeleryBells, celery_config
from mailio.settings import Settings, load
from mailio.stats import open_statistics
from mailio.stats.store import ClickhouseStatistics
from tests.support.panel import Panel

_OF_OTHERS = ("DJANGO_SETTINGS_MODULE", "MODE", "NODE", "VAR_DIR", "SECRET_KEYS", "WORKER_KIND")
_PASSWORD = re.compile(r"^password: (\S+)", re.MULTILINE)


# ── patience ──────────────────────────────────────────────────────────────────────────────────


def eventually(
    check: Callable[[], bool], *, within_s: float = 120.0, what: Callable[[], object] | None = None
) -> float:
    """Wait until something holds; return after how long. The time is a bound for a broken run, not
    an assertion; `what` tells then how things stand."""
    began = time.monotonic()
    while not check():
        if time.monotonic() - began > within_s:
            stands = f": {what()}" if what is not None else ""
            raise AssertionError(f"it did not come about within {within_s:g} s{stands}")
        time.sleep(0.05)  # noqa: TID251 - between two looks at other processes
    return time.monotonic() - began


# ── processes ─────────────────────────────────────────────────────────────────────────────────


def environment_without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that names no service and no installation of somebody else's."""
    return {
        name: value
        for name, value in environ.items()
        if not name.endswith("_URL") and name not in _OF_OTHERS
    }


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def descendants(parent: int) -> dict[int, str]:
    """Return the processes below one, each with its start time, so that a number used again is not
    taken for it."""
    stats = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
    found: dict[int, str] = {}
    grown = {parent}
    while grown:
        grown = {pid for pid, stat in stats.items() if int(stat[1]) in grown and pid not in found}
        found |= {pid: stats[pid][19] for pid in grown}
    return found


def still_running(processes: Mapping[int, str]) -> list[int]:
    """Return those of `descendants` that have not ended."""
    stats = {pid: _stat(pid) for pid in processes}
    return [
        pid
        for pid, stat in stats.items()
        if stat is not None and stat[19] == processes[pid] and stat[0] not in ("Z", "X")
    ]


def working_in(directory: Path) -> list[str]:
    """Return what runs with a directory in its command line or environment, or works in it."""
    wanted = str(directory)
    found = []
    for pid in _pids():
        stat = _stat(pid)
        if pid == os.getpid() or stat is None or stat[0] in ("Z", "X"):
            continue
        with contextlib.suppress(OSError):
            entry = Path(f"/proc/{pid}")
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            where = os.readlink(entry / "cwd")
            if wanted in command or f"VAR_DIR={wanted}" in environment or wanted in where:
                found.append(f"{pid} {command}")
    return found


# ── what the receivers saw ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened at the lab's receivers to the mail of one load, told by recipients' names."""

    accepted: frozenset[str]
    refused: frozenset[str]
    copies: int  # of accepted mail, beyond the first
    deferrals: int

    @classmethod
    def of(cls, facts: Iterable[Mapping[str, Any]], run: str) -> "Seen":
        """Count the facts about recipients whose local part names this run."""
        kinds: dict[str, Counter[str]] = {name: Counter() for name in ("accepted", "refused")}
        deferrals = 0
        for fact in facts:
            if f".{run}-" not in fact["recipient"]:
                continue
            if fact["fate"] in kinds:
                kinds[fact["fate"]][fact["recipient"]] += 1
            deferrals += fact["fate"] == "deferred"
        return cls(
            accepted=frozenset(kinds["accepted"]),
            refused=frozenset(kinds["refused"]),
            copies=kinds["accepted"].total() - len(kinds["accepted"]),
            deferrals=deferrals,
        )


# ── the API ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """The type of the body."""
        return self.headers.get("content-type", "").partition(";")[0]

    def json(self) -> Any:
        """Return the body read as JSON."""
        return json.loads(self.body)


class Api:
    """The product's HTTP API, spoken as a program of a customer would."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path
        self.token = token

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; the token goes with it unless `headers` has another."""
        given = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        with contextlib.closing(
            http.client.HTTPConnection(self._host, self._port, timeout=60)
        ) as line:
            line.request(method, self._path + path, body, given)
            answer = line.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, fields, answer.read())

    def is_up(self) -> bool:
        """Whether somebody listens there."""
        try:
            socket.create_connection((self._host, self._port or 80), 2).close()
        except OSError:
            return False
        return True

    def post(self, document: object, **headers: str) -> Answer:
        """Offer a message, or a list of them; `idempotency_key` becomes its header."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(document).encode()
        return self.call("POST", "/messages", body, {"Content-Type": "application/json", **named})

    def accept(self, document: object) -> dict[str, Any]:
        """Offer a message that must be taken; return its receipt."""
        answer = self.post(document)
        assert answer.status == 202, answer.body
        receipt: dict[str, Any] = answer.json()
        return receipt

    def message(self, message_id: str) -> dict[str, Any]:
        """Return what became of a message."""
        answer = self.call("GET", f"/messages/{message_id}")
        assert answer.status == 200, answer.body
        state: dict[str, Any] = answer.json()
        return state

    def recipient(self, message_id: str) -> dict[str, Any]:
        """Return what became of a message with one recipient."""
        (only,) = self.message(message_id)["recipients"]
        return dict(only)


# ── the fleet ─────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Load:
    """Messages that were sent through a fleet: how many it took, and how to tell them apart."""

    run: str
    campaign: str
    accepted: int = 0
    message_ids: list[str] = field(default_factory=list)


class Running:
    """A fleet that runs."""

    def __init__(self, fleet: Fleet, house: House, said: list[str]) -> None:
        self.fleet = fleet
        self.house = house
        self.said = said
        self.api = Api(fleet.addresses.api, read_token(fleet.token_path))
        self.lab = LabClient(fleet.addresses.lab_control_port)
        self.settings: Settings = load(fleet.environment)
        self.statistics: ClickhouseStatistics = open_statistics(self.settings.clickhouse_url)
        self._database: Any = None

    @property
    def operator_password(self) -> str:
        """The operator's password, as it was printed once."""
        found = _PASSWORD.search("\n".join(self.said))
        assert found is not None, self.said
        return found[1]

    def panel(self) -> Panel:
        """Return a browser that is logged in as the operator."""
        panel = Panel(self.fleet.addresses.panel)
        panel.log_in("operator", self.operator_password)
        return panel

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        if self._database is None or self._database.closed:
            self._database = psycopg2.connect(self.settings.database_url)
            self._database.autocommit = True
        with self._database.cursor() as cursor:
            cursor.execute(sql, params or None)
            return list(cursor.fetchall()) if cursor.description else []

    def one(self, sql: str, *params: object) -> Any:
        """Run one statement and return the first column of its only row."""
        ((value,),) = self.query(sql, *params)
        return value

    def ring(self, chore: str) -> None:
        """Ring for a chore of the node now; beat would, in its time."""
        app = Celery("tests", set_as_current=False)
        app.conf.update(celery_config(self.settings))
        bells = CeleryBells(app)
        try:
            asyncio.run(bells.upkeep(chore, UpkeepBell(self.settings.node)))
        finally:
            bells.close()
            app.close()

    def queued(self, campaign: str) -> int:
        """Return how many rows of a campaign are still owed a result."""
        return int(
            self.one(
                "SELECT count(*) FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id"
                " JOIN campaign c ON c.id = l.campaign_id WHERE c.label = %s",
                campaign,
            )
        )

    def load(self, count: int, **plan: Any) -> Iterator[Load]:
        """Send messages to the providers of the world; yield the state of it after each batch."""
        run = uuid.uuid4().hex[:8]
        sent = Load(run, f"e2e-{run}")
        url = self.fleet.addresses.api.removesuffix("/api/v2")
        wanted = LoadPlan(count=count, run=run, campaign=sent.campaign, **plan)
        for batch in send(wanted, self.fleet.world, url=url, token=self.api.token):
            for result in batch.answer["results"]:
                sent.accepted += sum(bool(one["accepted"]) for one in result["recipients"])
                sent.message_ids.append(result["message_id"])
            yield sent

    def seen(self, load: Load) -> Seen:
        """Return what the receivers saw of a load."""
        return Seen.of(self.lab.facts(), load.run)

    def applied(self, consumer: str) -> bool:
        """Whether a consumer of the outbox has everything there is."""
        behind = self.one(
            "SELECT count(*) FROM ledger_outbox o LEFT JOIN ledger_cursor c ON c.consumer = %s"
            " WHERE c.consumer IS NULL OR (o.xid, o.id) > (c.xid, c.row_id)",
            consumer,
        )
        return bool(behind == 0)

    def flower(self, path: str, credentials: str | None = None) -> Answer:
        """Ask Flower; as the operator unless `credentials` (user:password) say otherwise."""
        if credentials is None:
            credentials = f"{FLOWER_USER}:{self.house.password('FLOWER_PASSWORD')}"
        basic = base64.b64encode(credentials.encode()).decode()
        asked = Api(self.fleet.addresses.flower.rstrip("/"), "")
        eventually(lambda: asked.is_up())  # the fleet does not wait for it at its start
        return asked.call("GET", path, headers={"Authorization": f"Basic {basic}"})

    def wait_applied(self) -> None:
        """Wait until statistics and stop list have every event."""
        for consumer in ("statistics", "stop_list"):
            eventually(lambda consumer=consumer: self.applied(consumer))  # type: ignore[misc]

    def close(self) -> None:
        """Let go of connections."""
        self.statistics.close()
        if self._database is not None:
            self._database.close()


@contextlib.contextmanager
def starting(
    var_dir: Path, services: Mapping[str, str] | None = None, *, world: str = "default"
) -> Iterator[Running]:
    """Run the product in a directory until the block ends; `services` are URLs, by the name of
    their variable, that replace what it would start itself; `world` is which of the lab's worlds
    receives."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(environment_without_ours(os.environ)):
            patch.delenv(name)
        for name, url in (services or {}).items():
            patch.setenv(name, url)
        house = House(var_dir, "lab")
        fleet = Fleet(house, say=said.append, world=world)
        fleet.start()
    try:
        running = Running(fleet, house, said)
        try:
            yield running
        finally:
            running.close()
    finally:
        fleet.stop()

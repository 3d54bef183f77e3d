"""What each fault does: it strikes, lasts, and is cured before the next.

Gives    FAULTS, by name: strike() and how often; possible(), those this ground can suffer;
         prepare(), before the first
Takes    a Ground, what was drawn
Raises   nothing of its own; a cure that fails ends the run

A process that was killed is started again by its supervisor; a service by the cure. Clocks are not
stepped here: a process takes its time from PostgreSQL and counts by the monotonic clock
(tests/core and tests/workers step both).
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import psycopg2

from tests.soak.ground import SENDERS, Ground
from tests.soak.plan import Drawn

KILLED = ("web", "priority", "delivery1", "delivery2", "event", "upkeep", "control", "beat")
LINES = {"broker": "BROKER_URL", "postgres": "DATABASE_URL", "redis": "REDIS_URL"}
RELUCTANT_MS = 30

Strike = Callable[[Ground, Drawn], str]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; of `weight`s is drawn."""

    strike: Strike
    weight: float = 1.0
    needs: Callable[[Ground], bool] = lambda ground: True


FAULTS: dict[str, Fault] = {}


def _fault(
    name: str, weight: float = 1.0, *, needs: Callable[[Ground], bool] = lambda ground: True
) -> Callable[[Strike], Strike]:
    def keep(strike: Strike) -> Strike:
        FAULTS[name] = Fault(strike, weight, needs)
        return strike

    return keep


def prepare(ground: Ground) -> None:
    """Let receivers take their time."""
    for provider in ground.running.fleet.world.providers:
        ground.running.lab.script({"dot": SLOW}, provider=provider.key)


def possible(ground: Ground) -> Mapping[str, float]:
    """Return the faults that can be done here, and their weights."""
    return {name: fault.weight for name, fault in FAULTS.items() if fault.needs(ground)}


def _last(drawn: Drawn) -> None:
    time.sleep(drawn.lasts_s)  # noqa: TID251 - a fault lasts


# ── processes ─────────────────────────────────────────────────────────────────────────────────


def _add_process_faults() -> None:
    for name in KILLED:
        weight = 3.0 if name.startswith("delivery") else 1.0

        def kill(ground: Ground, drawn: Drawn, name: str = name) -> str:
            return ground.kill(name, fault=f"{drawn.number} {drawn.name}")

        def stop(ground: Ground, drawn: Drawn, name: str = name) -> str:
            with ground.frozen(name) as pids:
                _last(drawn)
            return f"{name}, {len(pids)} processes"

        def is_there(ground: Ground, name: str = name) -> bool:
            return name in ground.names()

        _fault(f"kill.{name}", weight, needs=is_there)(kill)
        _fault(f"stop.{name}", 0.4, needs=is_there)(stop)


@_fault("kill.all")
def _kill_all(ground: Ground, drawn: Drawn) -> str:
    """Every process of the node at once, as when its machine is switched off."""
    fault = f"{drawn.number} {drawn.name}"
    return "; ".join(ground.kill(name, fault=fault) for name in ground.names())


def _add_cuts() -> None:
    for what, variable in LINES.items():
        for is_silent in (True, False):

            def cut(
                ground: Ground, drawn: Drawn, variable: str = variable, *, silent: bool = is_silent
            ) -> str:
                draw = random.Random(drawn.seed)
                name = draw.choice([one for one in ground.names() if one != "beat"])
                line = ground.lines[variable]
                try:
                    count = line.cut(ground.pids_of(name), is_silent=silent)
                    _last(drawn)
                finally:
                    line.mend()
                return f"{name}, {count} connections"

            _fault(f"cut.{what}.{'silent' if is_silent else 'reset'}", 0.7)(cut)


_add_process_faults()
_add_cuts()

# ── services ──────────────────────────────────────────────────────────────────────────────────


def _has_rabbitmq(ground: Ground) -> bool:
    return ground.services.rabbitmq is not None


@_fault("rabbitmq.kill", needs=_has_rabbitmq)
def _rabbitmq_kill(ground: Ground, drawn: Drawn) -> str:
    rabbitmq = ground.services.rabbitmq
    assert rabbitmq is not None
    rabbitmq.kill()
    _last(drawn)
    rabbitmq.start()
    return "away, then back with its durable queues"


@_fault("rabbitmq.purge", needs=_has_rabbitmq)
def _rabbitmq_purge(ground: Ground, drawn: Drawn) -> str:
    rabbitmq = ground.services.rabbitmq
    assert rabbitmq is not None
    for _ in _times(drawn):
        rabbitmq.purge(ground.urls["BROKER_URL"])
    return "every queue emptied, again and again"


@_fault("rabbitmq.disconnect", needs=_has_rabbitmq)
def _rabbitmq_disconnect(ground: Ground, drawn: Drawn) -> str:
    rabbitmq = ground.services.rabbitmq
    assert rabbitmq is not None
    return f"{rabbitmq.close_connections()} connections closed"


@_fault("redis.kill")
def _redis_kill(ground: Ground, drawn: Drawn) -> str:
    ground.services.redis.kill()
    _last(drawn)
    ground.services.redis.start()
    return "away, then back empty"


@_fault("redis.flush")
def _redis_flush(ground: Ground, drawn: Drawn) -> str:
    ground.services.redis.flush()
    return "emptied"


@_fault("postgres.kill", 1.5)
def _postgres_kill(ground: Ground, drawn: Drawn) -> str:
    """The postmaster alone: its backends notice and end by themselves."""
    postgres = ground.services.postgres
    pid = postgres.signal(signal.SIGKILL)
    _last(drawn)
    postgres.restart()
    return f"postmaster {pid}"


@_fault("postgres.kill_senders")
def _postgres_kill_senders(ground: Ground, drawn: Drawn) -> str:
    """PostgreSQL is away, and who delivers meanwhile is killed: what it delivered since stands in
    its journal alone."""
    postgres = ground.services.postgres
    postgres.kill()
    _last(drawn)
    fault = f"{drawn.number} {drawn.name}"
    details = [ground.kill(one, fault=fault) for one in ground.names() if one.startswith(SENDERS)]
    postgres.start()
    return "; ".join(details)


@_fault("postgres.restart")
def _postgres_restart(ground: Ground, drawn: Drawn) -> str:
    """As an administrator restarts it: sessions are ended in order (fast shutdown)."""
    postgres = ground.services.postgres
    postgres.signal(signal.SIGINT)
    _last(drawn)
    postgres.restart()
    return "shut down in order, started again"


@_fault("postgres.terminate")
def _postgres_terminate(ground: Ground, drawn: Drawn) -> str:
    with _admin(ground) as cursor:
        for _ in _times(drawn):
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
    return "every session ended, again and again"


@_fault("postgres.crowd")
def _postgres_crowd(ground: Ground, drawn: Drawn) -> str:
    """Somebody else takes every connection that is left, and those that come free."""
    taken: list[psycopg2.extensions.connection] = []
    url = ground.urls["DATABASE_URL"]
    with _admin(ground) as cursor:
        for _ in _times(drawn):
            with contextlib.suppress(psycopg2.OperationalError):
                while True:
                    taken.append(psycopg2.connect(url, application_name="crowd"))
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name <> 'crowd'"
                " AND backend_type = 'client backend' AND random() < 0.3"
            )
    for connection in taken:
        connection.close()
    return f"{len(taken)} connections taken"


@_fault("postgres.timeouts")
def _postgres_timeouts(ground: Ground, drawn: Drawn) -> str:
    """Statements of new sessions are ended after a few hundredths of a second."""
    with _admin(ground) as cursor:
        cursor.execute("SELECT current_user")
        (user,) = cursor.fetchone() or ("",)
        end = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        cursor.execute(f"ALTER ROLE {user} SET statement_timeout = {RELUCTANT_MS}")
        try:
            cursor.execute(end)
            _last(drawn)
        finally:
            cursor.execute(f"ALTER ROLE {user} RESET statement_timeout")
            cursor.execute(end)
    return f"statement_timeout of {RELUCTANT_MS} ms"


@_fault("postgres.lock")
def _postgres_lock(ground: Ground, drawn: Drawn) -> str:
    """Somebody holds the table of rows, as a migration would."""
    with contextlib.closing(psycopg2.connect(ground.urls["DATABASE_URL"])) as connection:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE ledger_row IN ACCESS EXCLUSIVE MODE")
            _last(drawn)
        connection.rollback()
    return "the table of rows was locked"


@_fault("clickhouse.kill")
def _clickhouse_kill(ground: Ground, drawn: Drawn) -> str:
    ground.services.clickhouse.kill()
    _last(drawn)
    ground.services.clickhouse.start()
    return "away"


# ── the disk ──────────────────────────────────────────────────────────────────────────────────


def _has_disk(ground: Ground) -> bool:
    return ground.disk.is_own


@_fault("disk.full", needs=_has_disk)
def _disk_full(ground: Ground, drawn: Drawn) -> str:
    ground.disk.fill()
    try:
        _last(drawn)
    finally:
        ground.disk.empty()
    return "full"


@_fault("disk.readonly", 0.5, needs=_has_disk)
def _disk_readonly(ground: Ground, drawn: Drawn) -> str:
    """Who has a file open for writing keeps a file system writable, so these are killed first."""
    fault = f"{drawn.number} {drawn.name}"
    for _ in range(20):
        for name in ground.names():
            if name not in ("lab", "beat"):
                ground.kill(name, fault=fault)
        with contextlib.suppress(subprocess.CalledProcessError):
            ground.disk.allow_writing(is_allowed=False)
            break
    else:
        return "it could not be made read-only"
    try:
        _last(drawn)
    finally:
        ground.disk.allow_writing(is_allowed=True)
    return "read-only, all processes killed"


@_fault("disk.stall", needs=_has_disk)
def _disk_stall(ground: Ground, drawn: Drawn) -> str:
    ground.disk.stall(drawn.lasts_s)
    return "no write came to an end"


@_fault("disk.torn")
def _disk_torn(ground: Ground, drawn: Drawn) -> str:
    """Half a record at the end of the newest segment, as of a writer that lost its power."""
    detail = ground.kill("web", fault=f"{drawn.number} {drawn.name}")
    newest = max(ground.disk.where.glob("*.seg"), default=None, key=lambda one: one.stat().st_mtime)
    if newest is not None:
        with newest.open("ab") as file:
            file.write(random.Random(drawn.seed).randbytes(700))
    return f"{detail}; 700 octets behind {newest and newest.name}"


# ── receivers ─────────────────────────────────────────────────────────────────────────────────

# Receivers take their time at the dot, so that something is on the wire whenever a fault strikes.
SLOW: list[dict[str, object]] = [{"delay_s": 0.0}, {"delay_s": 0.1}, {"delay_s": 0.4}] * 1000
_SCRIPTS: Mapping[str, list[dict[str, object]]] = {
    "loses": [{"closing": "taken"}] * 5,
    "resets": [{"closing": "reset"}] * 5,
    "stalls": [{"delay_s": 6.0}] * 5,
}


def _add_receivers() -> None:
    for name, steps in _SCRIPTS.items():

        def play(ground: Ground, drawn: Drawn, steps: list[dict[str, object]] = steps) -> str:
            provider = random.Random(drawn.seed).choice(ground.running.fleet.world.providers)
            ground.running.lab.script({"dot": [*steps, *SLOW]}, provider=provider.key)
            return f"{provider.key}, at the final dot of five"

        _fault(f"receiver.{name}", 0.7)(play)


_add_receivers()

# ── help ──────────────────────────────────────────────────────────────────────────────────────


def _times(drawn: Drawn, every_s: float = 0.3) -> Iterator[None]:
    end = time.monotonic() + drawn.lasts_s
    while time.monotonic() < end:
        yield
        time.sleep(every_s)  # noqa: TID251 - a fault lasts


@contextlib.contextmanager
def _admin(ground: Ground) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(ground.urls["DATABASE_URL"])
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()

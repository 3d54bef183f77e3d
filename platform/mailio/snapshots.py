"""Policy revisions in PostgreSQL and the notice of a new one over Redis.

Gives    schema_sql(); SnapshotStore: active, fetch, acknowledge, acknowledged; announce; Watch,
         which calls back on each notice and every two seconds in case one was lost
Raises   StoreUnavailable when PostgreSQL cannot be asked
Follows  design.md section 6; style.md section 4, "from a row to a worker"
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
import redis

from mailcore.ports import StoreUnavailable

T = TypeVar("T")
CHANNEL = "pf:policy"
POLL_S = 2.0
SYNC_WINDOW_S = 30
CONNECT_TIMEOUT_S = 5
_STORED = "SELECT revision, digest, schema_version, body FROM policy_revision WHERE "


def schema_sql() -> str:
    """Return the statements that make the tables of policy and vault."""
    return (Path(__file__).parent / "ddl" / "policy.sql").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A revision as it lies in the store; `body` is what `mailcore.policy.codec` reads."""

    revision: int
    digest: str
    schema_version: int
    body: bytes = field(repr=False)


class SnapshotStore:
    """Revisions, for workers: read the active one, say which one runs here. Thread-safe."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._connection: Any = None

    def active_number(self) -> tuple[int, str] | None:
        """Return number and digest of the revision in force, None before the first."""
        row = self._one("SELECT revision, digest FROM policy_revision WHERE is_active", ())
        return None if row is None else (row[0], row[1])

    def active(self) -> StoredRevision | None:
        """Return the revision in force, None before the first."""
        return self._stored("is_active", ())

    def fetch(self, revision: int) -> StoredRevision | None:
        """Return a revision by its number."""
        return self._stored("revision = %s", (revision,))

    def acknowledge(self, *, node: str, process: str, revision: int) -> None:
        """Tell that a process runs a revision; forget processes silent for a day."""
        self._run(
            lambda cursor: cursor.execute(
                "WITH gone AS (DELETE FROM policy_ack"
                " WHERE at < statement_timestamp() - interval '1 day' AND process <> %s)"
                " INSERT INTO policy_ack (node, process, revision) VALUES (%s, %s, %s)"
                " ON CONFLICT (node, process) DO UPDATE"
                " SET revision = excluded.revision, at = statement_timestamp()",
                (process, node, process, revision),
            )
        )

    def acknowledged(self, node: str) -> dict[str, int]:
        """Return which revision each process of a node runs, of those that reported just now."""

        def fetch(cursor: Any) -> dict[str, int]:
            cursor.execute(
                "SELECT process, revision FROM policy_ack WHERE node = %s"
                " AND at > statement_timestamp() - make_interval(secs => %s)",
                (node, SYNC_WINDOW_S),
            )
            return dict(cursor.fetchall())

        return self._run(fetch)

    def retire(self, *, node: str, process: str) -> None:
        """A process ends: it runs nothing any more."""
        self._run(
            lambda cursor: cursor.execute(
                "DELETE FROM policy_ack WHERE node = %s AND process = %s", (node, process)
            )
        )

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._drop()

    def _stored(self, condition: str, params: tuple[Any, ...]) -> StoredRevision | None:
        row = self._one(
            _STORED + condition,
            params,
        )
        return None if row is None else StoredRevision(row[0], row[1], row[2], bytes(row[3]))

    def _one(self, query: str, params: tuple[Any, ...]) -> Any:
        def fetch(cursor: Any) -> Any:
            cursor.execute(query, params)
            return cursor.fetchone()

        return self._run(fetch)

    def _run(self, work: Callable[[Any], T]) -> T:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg2.connect(
                        self._dsn, connect_timeout=CONNECT_TIMEOUT_S
                    )
                    self._connection.autocommit = True
                with self._connection.cursor() as cursor:
                    return work(cursor)
            except psycopg2.Error as exc:
                self._drop()
                raise StoreUnavailable("postgresql", str(exc).strip() or repr(exc)) from exc

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()


def announce(redis_url: str, revision: int) -> bool:
    """Tell the fleet of a revision, best effort: workers poll as well. False if it failed."""
    try:
        with redis.Redis.from_url(
            redis_url, socket_timeout=1.0, socket_connect_timeout=1.0
        ) as client:
            client.publish(CHANNEL, str(revision))
    except redis.RedisError:
        return False
    return True


class Watch:
    """Calls `on_notice` on a thread of its own: at each notice, and every `poll_s` regardless.

    `on_notice` must not raise; a Redis that is away only costs the wait of a poll.
    """

    def __init__(
        self, redis_url: str, on_notice: Callable[[], object], *, poll_s: float = POLL_S
    ) -> None:
        self._url = redis_url
        self._on_notice = on_notice
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End within a poll's time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError):
                self._on_notice()
                self._stopping.wait(self._poll_s)

    def _listen(self) -> None:
        with (
            redis.Redis.from_url(self._url, socket_connect_timeout=1.0) as client,
            client.pubsub(ignore_subscribe_messages=True) as channel,
        ):
            channel.subscribe(CHANNEL)
            self._on_notice()  # what was announced before we listened
            while not self._stopping.is_set():
                self._wait(channel)
                if not self._stopping.is_set():
                    self._on_notice()

    def _wait(self, channel: Any) -> None:
        """Return at a notice, after `poll_s`, or soon after stop()."""
        left_s = self._poll_s
        while left_s > 0 and not self._stopping.is_set():
            slice_s = min(left_s, 0.25)
            if channel.get_message(timeout=slice_s) is not None:
                return
            left_s -= slice_s


def watch(redis_url: str, on_notice: Callable[[], object], *, poll_s: float = POLL_S) -> Watch:
    """Start a Watch and return it, to be stopped."""
    started = Watch(redis_url, on_notice, poll_s=poll_s)
    started.start()
    return started

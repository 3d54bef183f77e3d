"""Sessions with PostgreSQL: prepared statements, reconnects, and threads of their own.

Gives    Session (plain, thread-safe, one statement at a time), AsyncSession (the same behind
         `await`), Profile (how its statements are planned), ConnectionLost
Takes    a libpq URL, a role for `application_name`, the statements to prepare
Raises   StoreUnavailable("postgresql", reason) for all that may pass with time; ConnectionLost, a
         kind of it, when the line broke under a statement, which may then have been committed
Follows  design.md section 4: nothing blocking on the loop; ledger.md: no plan flips when hot

A wrong value or a missing column is a bug and comes out as the driver's own exception.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, TypeVar

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection

from mailcore.ports import StoreUnavailable

T = TypeVar("T")
Row = tuple[Any, ...]
Execute = Callable[[str, Sequence[object]], list[Row]]

STORE = "postgresql"
# A dead server or firewall must not hold a process longer than this, whatever TCP thinks.
_LINE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_ROLLED_BACK = (errors.DeadlockDetected, errors.SerializationFailure)
_TRIES = 5


class ConnectionLost(StoreUnavailable):
    """The connection broke under a statement: nobody knows whether it was committed."""


class RolledBack(StoreUnavailable):
    """A deadlock or the like ended the transaction whole; it may be tried again at once."""


class Profile(Enum):
    """What the planner may do in a session."""

    # One plan for an empty table and for a million rows: index order, nested loops.
    HOT = (
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;"
        "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off"
    )
    # A batch joins its own arrays, never a big table: hashing keeps 500 rows × 500 lanes cheap.
    ACCEPT = (
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;"
        "SET enable_nestloop = off; SET enable_mergejoin = off"
    )
    # Chores and moves are rare and big: plan each with the sizes of now. A plan kept from when the
    # tables were empty may read a whole index for every row (4.5 s for 2,000 rows seen).
    CHORE = "SET plan_cache_mode = force_custom_plan"


class Session:
    """One connection, opened when first used and again after it was lost."""

    def __init__(
        self,
        dsn: str,
        *,
        role: str,
        profile: Profile = Profile.CHORE,
        statements: Mapping[str, str] | None = None,
        statement_timeout_s: float = 30.0,
    ) -> None:
        self._dsn = dsn
        self._role = role
        self._statements = dict(statements or {})
        timeout_ms = int(statement_timeout_s * 1000)
        self._setup = (
            f"SET statement_timeout = {timeout_ms};"
            f"SET idle_in_transaction_session_timeout = {timeout_ms};"
            f"SET timezone = 'UTC'; SET jit = off; {profile.value}"
        )
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._generation = 0
        self._is_closed = False
        self._failed_at: float | None = None

    @property
    def generation(self) -> int:
        """The number of the present connection; another number means session locks are gone."""
        return self._generation

    @property
    def failed_at(self) -> float | None:
        """When (monotonic) the database last could not be reached or was lost, None if never."""
        return self._failed_at

    @property
    def backend_pid(self) -> int:
        """The server process behind the present connection, 0 if there is none."""
        connection = self._connection
        return connection.info.backend_pid if connection is not None else 0

    def call(self, name: str, params: Sequence[object] = (), *, again: bool = True) -> list[Row]:
        """Execute a prepared statement in a transaction of its own and return its rows.

        With `again` a statement whose connection broke is sent once more on a new one: only for
        what may run twice. Deadlocks are always tried again, they were rolled back.
        """
        marks = ",".join(["%s"] * len(params))
        return self.run(f"EXECUTE {name} ({marks})" if marks else f"EXECUTE {name}", params, again)

    def run(self, sql: str, params: Sequence[object] = (), again: bool = True) -> list[Row]:
        """Execute SQL text in a transaction of its own; as `call`."""
        with self._lock:
            for left in range(_TRIES - 1, -1, -1):
                was_open = self._connection is not None
                try:
                    return self._execute(sql, params)
                except ConnectionLost:
                    # A connection that had been idle tells of the server's restart only now.
                    if not (again and was_open and left):
                        raise
                except RolledBack:
                    if not left:
                        raise
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Hold the session for several statements in one transaction; yields the executor.

        BEGIN travels with the first statement. Raises RolledBack after a deadlock, ConnectionLost
        when the line broke (under COMMIT: perhaps after it).
        """
        with self._lock:
            has_begun = False

            def execute(sql: str, params: Sequence[object]) -> list[Row]:
                nonlocal has_begun
                text = sql if has_begun else f"BEGIN; {sql}"
                has_begun = True
                return self._execute(text, params)

            try:
                yield execute
                if has_begun:
                    self._execute("COMMIT", ())
            except BaseException:
                if self._connection is not None and has_begun:
                    with suppress(StoreUnavailable):
                        self._execute("ROLLBACK", ())
                raise

    def close(self) -> None:
        """Close the connection for good."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def _execute(self, sql: str, params: Sequence[object]) -> list[Row]:
        connection = self._connection or self._connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, tuple(params) or None)
                return cursor.fetchall() if cursor.description is not None else []
        except _ROLLED_BACK as exc:
            raise RolledBack(STORE, _reason(exc)) from exc
        except psycopg2.Error as exc:
            if connection.closed:
                self._failed_at = time.monotonic()
                self._drop()
                raise ConnectionLost(STORE, _reason(exc)) from exc
            if isinstance(exc, errors.ReadOnlySqlTransaction):
                # A fail-over left us on a standby; the next connection finds the primary.
                self._drop()
                raise StoreUnavailable(STORE, _reason(exc)) from exc
            if isinstance(exc, psycopg2.OperationalError | psycopg2.InterfaceError):
                raise StoreUnavailable(STORE, _reason(exc)) from exc
            raise

    def _connect(self) -> Connection:
        if self._is_closed:
            raise StoreUnavailable(STORE, f"the session {self._role} has been closed")
        name = f"postfleet-{self._role}"
        try:
            connection: Connection = psycopg2.connect(self._dsn, application_name=name, **_LINE)
        except psycopg2.OperationalError as exc:
            self._failed_at = time.monotonic()
            raise StoreUnavailable(STORE, _reason(exc)) from exc
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(self._setup)
                for key, text in self._statements.items():
                    cursor.execute(f"PREPARE {key} AS {text}")
        except errors.UndefinedTable as exc:
            connection.close()
            raise StoreUnavailable(STORE, f"the ledger is not migrated: {_reason(exc)}") from exc
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as exc:
            connection.close()
            raise StoreUnavailable(STORE, _reason(exc)) from exc
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._generation += 1
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg2.Error):
                connection.close()


class AsyncSession:
    """A Session on a thread of its own, awaited from the loop. Calls run one after another."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._is_closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """Do blocking work with the session on its thread. A cancelled wait does not stop it."""
        if self._is_closed:
            raise StoreUnavailable(STORE, "the ledger has been closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def call(
        self, name: str, params: Sequence[object] = (), *, again: bool = True
    ) -> list[Row]:
        """Execute a prepared statement; as `Session.call`."""
        return await self.run(lambda: self.session.call(name, params, again=again))

    def close(self) -> None:
        """Finish what runs, close the connection and end the thread."""
        self._is_closed = True
        self._threads.shutdown(wait=True)
        self.session.close()


def _reason(exc: BaseException) -> str:
    text = str(exc).strip().splitlines()
    return text[0] if text else type(exc).__name__

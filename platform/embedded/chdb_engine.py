"""The chdb engine of one directory.

Takes    the directory; requests (`chdb_wire.Request`)
Gives    response header and body of each; a directory that opens again after any failed CREATE
Raises   RequestError once closed; RuntimeError, OSError, ImportError if it cannot be opened
"""

import contextlib
import importlib
import json
import os
import re
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedded.chdb_wire import (
    UNAVAILABLE,
    Request,
    RequestError,
    failure,
    param_text,
    quote_name,
    setting_literal,
    success,
)

FINISH_WITHIN_S = 20.0
ERROR_CODE = re.compile(r"Code: (\d+)\.")
USER_TABLES = (
    "SELECT database, name FROM system.tables"
    " WHERE database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema')"
)


class Engine:
    """The chdb session of one directory; one query at a time."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._marker = data / "creating.json"
        self._turn = threading.Lock()
        self._database = "default"
        self._is_closed = False
        self._set_aside_unfinished()
        # The engine reads its path as a connection string, where "?" and ":" mean something.
        os.chdir(data)
        # Imported in no other process: a child forked from one that did would hang.
        self._session: Any = importlib.import_module("chdb.session").Session(".")

    def run(self, request: Request) -> tuple[dict[str, object], bytes]:
        """Return the header and body of the response; a fault of the query is a response too."""
        with self._turn:
            if self._is_closed:
                raise RequestError(UNAVAILABLE, "the owner is stopping", closes=True)
            try:
                return self._run(request)
            except RuntimeError as exc:  # the engine's own error derives from it
                return failure(engine_code(str(exc)), str(exc)), b""

    def close(self) -> None:
        """Let the running query finish, within reason, and close the directory cleanly."""
        if self._turn.acquire(timeout=FINISH_WITHIN_S):
            self._is_closed = True
            self._session.close()
            self._turn.release()

    def _run(self, request: Request) -> tuple[dict[str, object], bytes]:
        settings = [setting_literal(name, value) for name, value in request.settings.items()]
        params = {name: param_text(name, value) for name, value in request.params.items()}
        if self._database != request.database:
            self._session.query(f"USE {quote_name(request.database)}")
            self._database = request.database
        if settings:
            self._session.query(f"SET {', '.join(settings)}")
        try:
            if request.verb in ("CREATE", "ATTACH", "REPLACE"):
                result = self._create(request, params)
            else:
                result = self._query(request, params)
            body = bytes(result.bytes())
            rows = result.rows_written() if request.verb == "INSERT" else result.rows_read()
            return success(rows, result.elapsed(), len(body)), body
        finally:
            if settings:
                reset = ", ".join(f"{name} = DEFAULT" for name in request.settings)
                self._session.query(f"SET {reset}")

    def _query(self, request: Request, params: Mapping[str, str]) -> Any:
        return self._session.query(request.statement, request.format, params=dict(params) or None)

    def _create(self, request: Request, params: Mapping[str, str]) -> Any:
        tables, files = self._tables(), self._metadata()
        self._marker.write_text(json.dumps(sorted(files)))
        try:
            return self._query(request, params)
        except RuntimeError:
            for database, name in self._tables() - tables:
                with contextlib.suppress(RuntimeError):
                    target = f"{quote_name(database)}.{quote_name(name)}"
                    self._session.query(f"DROP TABLE IF EXISTS {target} SYNC")
            for leftover in self._metadata() - files:
                (self._data / leftover).unlink(missing_ok=True)
            raise
        finally:
            self._marker.unlink()

    def _tables(self) -> set[tuple[str, str]]:
        lines = self._session.query(USER_TABLES, "JSONCompactEachRow").bytes().splitlines()
        return {(database, name) for database, name in map(json.loads, lines)}

    def _metadata(self) -> set[str]:
        """Every definition on disk: databases in metadata/, their tables in store/."""
        found = [*self._data.glob("metadata/*.sql"), *self._data.glob("store/*/*/*.sql")]
        return {str(path.relative_to(self._data)) for path in found}

    def _set_aside_unfinished(self) -> None:
        """Nobody was told that the CREATE a crash cut off had succeeded."""
        try:
            before = set(json.loads(self._marker.read_text()))
        except FileNotFoundError:
            return
        except ValueError:
            before = self._metadata()  # cut off while it wrote the marker: no CREATE had begun
        for leftover in self._metadata() - before:
            target = self._data / "refused" / leftover.replace("/", "_")
            target.parent.mkdir(exist_ok=True)
            os.replace(self._data / leftover, target)
            say(f"an unfinished CREATE was set aside: {target}")
        self._marker.unlink()


def engine_code(text: str) -> int:
    match = ERROR_CODE.search(text)
    return int(match[1]) if match else 1002  # ClickHouse's UNKNOWN_EXCEPTION


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

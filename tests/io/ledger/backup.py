"""A database that is backed up, and restored under those who use it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2


class Backup:
    """Copies of one database within its server. A copy ends the sessions of who uses it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._name = urlsplit(dsn).path.lstrip("/")
        self._copy = f"{self._name}_backup"
        self._server = urlunsplit(urlsplit(dsn)._replace(path="/postgres"))

    def take(self, *changes: str) -> None:
        """Back it up, and change the copy by these statements."""
        self.drop()
        self._allow(is_allowed=False)
        self._run(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s",
            self._name,
        )
        self._run(f"CREATE DATABASE {self._copy} TEMPLATE {self._name} STRATEGY file_copy")
        self._allow(is_allowed=True)
        for change in changes:
            _query(urlunsplit(urlsplit(self.dsn)._replace(path=f"/{self._copy}")), change, ())

    def restore(self) -> None:
        """Put the backup in its place."""
        self._run(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._run(f"ALTER DATABASE {self._copy} RENAME TO {self._name}")

    def drop(self) -> None:
        """Forget the backup."""
        self._run(f"DROP DATABASE IF EXISTS {self._copy} WITH (FORCE)")

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement in the database."""
        return _query(self.dsn, sql, params)

    def _allow(self, *, is_allowed: bool) -> None:
        self._run(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS {is_allowed}")

    def _run(self, sql: str, *params: object) -> None:
        _query(self._server, sql, params)


def _query(dsn: str, sql: str, params: tuple[object, ...]) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description is not None else []
    finally:
        connection.close()

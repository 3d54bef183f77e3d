"""What both ways to ClickHouse have in common: asking, literals, and which faults are whose.

Gives    Driver (the port of this package), Fault, faults, insert_error, text_literal,
         minutes_literal
Raises   StoreUnavailable for all that may pass with time or needs an operator; SchemaError for
         events that the table cannot take, however often they are sent
Follows  services.md: servers of 2018 know no parameters, so values travel as literals
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from mailcore.errors import PostfleetError, SchemaError
from mailcore.ports import StoreUnavailable

STORE = "clickhouse"
Row = tuple[Any, ...]

# Faults of the data itself (ClickHouse's ErrorCodes): a value that does not parse or fit.
_OF_THE_DATA = frozenset({6, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 130, 131, 321, 349, 376, 441})
UNKNOWN_TABLE = 60
UNKNOWN_DATABASE = 81
# ALTER … ADD COLUMN has no IF NOT EXISTS on old servers.
COLUMN_EXISTS = frozenset({15, 44})

_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\0": "\\0", "\n": "\\n", "\t": "\\t"})


class Fault(PostfleetError):
    """ClickHouse answered with an error. `code` is its number."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Driver(Protocol):
    """A server, or the owner of an embedded engine. Thread-safe."""

    def query(self, sql: str) -> list[Row]:
        """Return the rows of a SELECT. Raises Fault or StoreUnavailable."""
        ...

    def execute(self, sql: str) -> None:
        """Run a statement without rows. Raises Fault or StoreUnavailable."""
        ...

    def insert(self, table: str, lines: bytes, count: int) -> None:
        """Insert `count` lines of JSON; columns left out get their defaults.

        Raises SchemaError if the table cannot take a line, Fault or StoreUnavailable otherwise.
        """
        ...

    def create_database(self) -> None:
        """Make the database of the URL, if it is not there."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def text_literal(value: str) -> str:
    """Return a text as it stands in a statement."""
    return "'" + value.translate(_ESCAPES) + "'"


def minutes_literal(minutes: Sequence[int]) -> str:
    """Return minutes (Unix time // 60) as the list of an IN."""
    return ",".join(f"toDateTime({int(minute) * 60}, 'UTC')" for minute in minutes)


@contextmanager
def faults() -> Iterator[None]:
    """Turn a server's fault into what those may see who only know the port."""
    try:
        yield
    except Fault as fault:
        if fault.code in (UNKNOWN_TABLE, UNKNOWN_DATABASE):
            reason = f"the statistics are not migrated: {fault.reason}"
            raise StoreUnavailable(STORE, reason) from fault
        raise StoreUnavailable(STORE, fault.reason) from fault


def insert_error(fault: Fault) -> PostfleetError:
    """Return what a refused insert is: the events' fault, or the server's."""
    if fault.code in _OF_THE_DATA:
        return SchemaError(f"the table of events refuses a value: {fault.reason}")
    return fault

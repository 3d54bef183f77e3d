"""A throwaway ClickHouse server of the machine's own package, where there is one.

Gives    server_url: the address of a fresh, empty database; None without `clickhouse-server`
Raises   StartError with the log of a server that does not start
"""

from __future__ import annotations

from tests.support.services import ClickhouseServer, MissingService, service


def server_url() -> str | None:
    """Return the address of a database that does not exist yet, or None without a server."""
    try:
        return service("clickhouse_server", ClickhouseServer).database()
    except MissingService:
        return None

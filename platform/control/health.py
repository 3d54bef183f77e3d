"""Health and readiness, for load balancers and watchers.

Gives    health: always 200 and "OK"; readiness: 200, or 503 with the names of what does not answer,
         and of what makes intake refuse mail: a spool or an outbox without room;
         ByAnyName, a middleware: both answer whatever the host is called, for a watcher knows an
         address and not ALLOWED_HOSTS
Follows  reference/admin-panel.md §6.5
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg2
import redis
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse

from control.submission.services import door
from mailcore.ports import StoreUnavailable
from mailio.ledger.accept_sql import OUTBOX_BYTES
from mailio.pressure import OutboxGate
from mailio.settings import Settings
from mailio.spool.room import check_room

TIMEOUT_S = 2.0
DEFAULT_PORTS = {
    "amqp": 5672,
    "amqps": 5671,
    "clickhouse": 9000,
    "clickhouses": 9440,
    "http": 8123,
    "https": 8443,
    "redis": 6379,
    "rediss": 6379,
}


def health(request: HttpRequest) -> HttpResponse:
    """Say that the process answers."""
    return HttpResponse("OK", content_type="text/plain")


def readiness(request: HttpRequest) -> JsonResponse:
    """Ask every store; name those that do not answer, without saying why: anybody may ask."""
    configured: Settings | None = settings.POSTFLEET
    failed = ["started"] if configured is None else failed_stores(configured)
    if failed:
        return JsonResponse({"status": "FAIL", "failed": failed}, status=503)
    return JsonResponse({"status": "OK"})


class ByAnyName:
    """Answers for health and readiness before anything looks at the name of the host."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, or let the others."""
        view = _VIEWS.get(request.path_info)
        return self._get_response(request) if view is None else view(request)


_VIEWS: dict[str, Callable[[HttpRequest], HttpResponse]] = {
    "/health": health,
    "/readiness": readiness,
}


def failed_stores(configured: Settings) -> list[str]:
    """Return the names of the stores that do not answer, asked all at once."""
    probes: dict[str, Callable[[], object]] = {
        "postgresql": lambda: _ask_postgresql(configured.database_url),
        "redis": lambda: _ask_redis(configured.redis_url),
        "broker": lambda: _reach(configured.broker_url),
        "clickhouse": lambda: _reach(configured.clickhouse_url),
        "spool": lambda: _ask_spool(configured),
        "outbox": lambda: _ask_outbox(configured),
    }
    with ThreadPoolExecutor(len(probes)) as pool:
        asked = {name: pool.submit(probe) for name, probe in probes.items()}
    return [name for name, answer in asked.items() if answer.exception() is not None]


def _ask_postgresql(url: str, question: str = "SELECT 1") -> int:
    connection: Any = psycopg2.connect(url, connect_timeout=int(TIMEOUT_S))
    try:
        with connection.cursor() as cursor:
            cursor.execute(question)
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


def _ask_redis(url: str) -> None:
    with redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    ) as client:
        client.ping()


def _ask_spool(configured: Settings) -> None:
    if configured.has_shared_spool:
        from mailio.spool.mongo_store import ping

        ping(configured.spool_url, timeout_s=TIMEOUT_S)
    elif not os.access(configured.spool_dir, os.W_OK | os.X_OK):
        raise OSError("the spool directory cannot be written")
    try:
        stop_bytes = door().stop_bytes()
    except StoreUnavailable:
        return  # there is no policy yet: that is not the spool's fault
    check_room(configured, stop_bytes=stop_bytes, timeout_s=TIMEOUT_S)


def _ask_outbox(configured: Settings) -> None:
    """Fail while mail is refused for it; a database that does not answer has its own name."""
    with contextlib.suppress(psycopg2.Error):
        waiting = _ask_postgresql(configured.database_url, OUTBOX_BYTES)
        OutboxGate(lambda: waiting, stop_bytes=configured.outbox_stop_bytes).check()


def _reach(url: str) -> None:
    with _connection(url):
        pass


@contextlib.contextmanager
def _connection(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    if parts.scheme.endswith("+unix"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(TIMEOUT_S)
            line.connect(unquote(parts.path))
            yield line
        return
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    with socket.create_connection((parts.hostname or "localhost", port), TIMEOUT_S) as line:
        yield line

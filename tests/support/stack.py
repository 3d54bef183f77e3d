"""One throwaway private stack for a whole pytest session.

Gives    postgres_url(), redis_url(), chdb_url(): each call returns a fresh, empty database of a
         service that is started at the first call and ended with the process; the same as
         fixtures: `postgres_database`, `redis_database`, `chdb_database`
Takes    nothing; only the services asked for are started
Raises   StartError with the log of what did not start

fsync is off here: a test about durability makes a `Stack` of its own. Load the fixtures with
`pytest_plugins = ["tests.support.stack"]` in a top-level conftest, or import the functions.
"""

import atexit
import functools
import itertools
import json
import os
import re
import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import psycopg2
import pytest
import redis

from embedded.stack import Stack

_numbers = itertools.count(1)


@functools.cache
def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="postfleet-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@functools.cache
def _urls(service: str) -> dict[str, str]:
    """Start one service. Replaced services of the caller's environment are not used: a test must
    never write to a database somebody cares for."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    stack = Stack(_directory() / service, environ, services=[service], durable=False)
    atexit.register(stack.stop)
    return stack.start()


@functools.cache
def _redis_server() -> tuple[str, "itertools.cycle[int]"]:
    url = _urls("valkey")["REDIS_URL"]
    return url.rpartition("/")[0], itertools.cycle(range(2, 64))


def postgres_url() -> str:
    """Return the URL of a fresh, empty PostgreSQL database."""
    server = _urls("postgres")["DATABASE_URL"]
    name = f"test_{next(_numbers)}"
    connection = psycopg2.connect(server)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
    finally:
        connection.close()
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def drop_postgres(url: str) -> None:
    """Drop a database of `postgres_url`, sessions included."""
    name = urlsplit(url).path.lstrip("/")
    if not re.fullmatch(r"test_\d+", name):
        raise ValueError(f"{name} is not a database of this module")
    connection = psycopg2.connect(_urls("postgres")["DATABASE_URL"])
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    finally:
        connection.close()


def redis_url() -> str:
    """Return the URL of an empty Valkey database; numbers come round again after 62 calls."""
    server, numbers = _redis_server()
    url = f"{server}/{next(numbers)}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def chdb_url() -> str:
    """Return the address of a fresh, empty ClickHouse database: chdb+unix://…?database=test_n."""
    server = _urls("chdb")["CLICKHOUSE_URL"]
    name = f"test_{next(_numbers)}"
    ask_chdb(server, f"CREATE DATABASE {name}")
    return f"{server}?database={name}"


def ask_chdb(
    url: str, query: str, body: bytes = b"", **header: object
) -> tuple[dict[str, Any], bytes]:
    """Send one request to the owner of a chdb and return the response, by the book of
    `embedded.chdb_owner` and nothing but the standard library."""
    address = urlsplit(url)
    for name, values in parse_qs(address.query).items():
        header.setdefault(name, values[0])
    head = json.dumps({"query": query, "body_length": len(body), **header}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(unquote(address.path))
        connection.sendall(struct.pack("!I", len(head)) + head + body)
        with connection.makefile("rb") as stream:
            (size,) = struct.unpack("!I", stream.read(4))
            answer: dict[str, Any] = json.loads(stream.read(size))
            return answer, stream.read(answer["body_length"])


@pytest.fixture
def postgres_database() -> str:
    return postgres_url()


@pytest.fixture
def redis_database() -> str:
    return redis_url()


@pytest.fixture
def chdb_database() -> str:
    return chdb_url()

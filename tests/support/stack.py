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
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

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
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
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


@pytest.fixture
def postgres_database() -> str:
    return postgres_url()


@pytest.fixture
def redis_database() -> str:
    return redis_url()

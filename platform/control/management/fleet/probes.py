"""Ask each service of a fleet whether it is there, lets us in, and is new enough.

Gives    ask_postgresql, ask_broker, ask_redis, ask_clickhouse, ask_spool, ask_management: each
         returns what answered, in words
Takes    the value of the variable
Raises   Wrong with the reason. It may hold what a driver repeats of the URL: see `survey`
Follows  README.md, "Services of your own", for the least versions
"""

from __future__ import annotations

import base64
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import psycopg2
import redis
from amqp.exceptions import AMQPError
from kombu import Connection
from kombu.exceptions import KombuError

from mailcore.ports import StoreUnavailable
from mailio.broker import declare
from mailio.settings import SHARED_SPOOLS, SettingsError, check_spool_url
from mailio.stats.driver import UNKNOWN_DATABASE, Fault
from mailio.stats.store import open_driver

PATIENCE_S = 5.0
POSTGRESQL = (14,)
RABBITMQ = (3, 10)
REDIS = (6, 2)
MONGODB = (6,)


class Wrong(Exception):
    """A service that is missing, closed to us, or too old; the text says which."""


def ask_postgresql(url: str) -> str:
    """Open the database and look at its version."""
    parts = _parts(url, "postgresql", "postgres")
    try:
        connection: Any = psycopg2.connect(url, connect_timeout=int(PATIENCE_S))
    except psycopg2.OperationalError as exc:
        raise Wrong(str(exc).strip()) from exc
    except (psycopg2.Error, ValueError, UnicodeError) as exc:
        raise Wrong("it is no URL that PostgreSQL's client can read") from exc
    try:
        number = int(connection.server_version)
        name = connection.info.dbname
    finally:
        connection.close()
    version = f"{number // 10000}.{number % 10000}"
    _at_least("PostgreSQL", version, POSTGRESQL)
    return f"PostgreSQL {version}, database {name} on {_place(parts.hostname, parts.port, 5432)}"


def ask_broker(url: str) -> str:
    """Log in, and declare the exchange as every process does: so the rights are seen too."""
    if url.startswith(("redis://", "rediss://")):
        return ask_redis(url)
    parts = _parts(url, "amqp", "amqps", "pyamqp")
    place = _place(parts.hostname, parts.port, 5671 if parts.scheme == "amqps" else 5672)
    connection: Any = Connection(url, connect_timeout=PATIENCE_S)
    try:
        connection.connect()
        served = connection.connection.server_properties
        declare("event").exchange(connection.default_channel).declare()
    except (AMQPError, KombuError, OSError) as exc:
        raise Wrong(f"{place}: {_amqp_reason(exc)}") from exc
    except (ValueError, KeyError) as exc:
        raise Wrong("it is no URL of a broker") from exc
    finally:
        connection.release()
    version = str(served.get("version", "0"))
    _at_least(str(served.get("product", "broker")), version, RABBITMQ)
    return f"{served.get('product')} {version}, virtual host {connection.virtual_host} on {place}"


def _amqp_reason(exc: BaseException) -> str:
    code = getattr(exc, "reply_code", None) or getattr(exc, "code", None)
    words = str(getattr(exc, "reply_text", "") or getattr(exc, "strerror", "") or exc)
    if code == 403 and "ACCESS_REFUSED - Login" in words:
        return "user or password is refused"
    return words.strip() or type(exc).__name__


def ask_redis(url: str) -> str:
    """Log in and look at the version."""
    parts = _parts(url, "redis", "rediss", "unix")
    try:
        with redis.Redis.from_url(
            url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S
        ) as client:
            client.ping()
            told: Any = client.info("server")
    except redis.RedisError as exc:
        raise Wrong(str(exc)) from exc
    except ValueError as exc:
        raise Wrong("it is no URL of a Redis server") from exc
    is_valkey = "valkey_version" in told
    version = str(told["valkey_version" if is_valkey else "redis_version"])
    _at_least("Redis", str(told["redis_version"]), REDIS)
    place = parts.path if parts.scheme == "unix" else _place(parts.hostname, parts.port, 6379)
    return f"{'Valkey' if is_valkey else 'Redis'} {version} on {place}"


def ask_clickhouse(url: str) -> str:
    """Log in and look at the version; a database that is not there yet will be made."""
    parts = urlsplit(url)
    try:
        driver = open_driver(url, reply_s=PATIENCE_S)
    except SettingsError as exc:
        raise Wrong(str(exc)) from exc
    place = _place(parts.hostname, parts.port, 9000) if parts.hostname else unquote(parts.path)
    try:
        ((version,),) = driver.query("SELECT version()")
    except Fault as exc:
        if exc.code != UNKNOWN_DATABASE:
            raise Wrong(exc.reason) from exc
        return f"ClickHouse on {place}; its database will be made"
    except StoreUnavailable as exc:
        raise Wrong(exc.reason) from exc
    finally:
        driver.close()
    return f"ClickHouse {version} on {place}"


def ask_spool(url: str) -> str:
    """See that the directory is there, or can be made, and can be written; or that the database
    lets us in."""
    parts = urlsplit(url)
    if parts.scheme in SHARED_SPOOLS:
        return _ask_mongodb(check_spool_url(url))
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc or not path.is_absolute():
        raise Wrong("it is neither file:///an/absolute/directory nor mongodb://host/database")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise Wrong(f"{path}: {exc.strerror}") from exc
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise Wrong(f"{path} cannot be written by this user")
    return str(path)


def _ask_mongodb(url: str) -> str:
    from mailio.spool.mongo_store import describe

    try:
        version, database = describe(url, timeout_s=PATIENCE_S)
    except StoreUnavailable as exc:
        raise Wrong(exc.reason) from exc
    _at_least("MongoDB", version, MONGODB)
    return f"MongoDB {version}, database {database} on {urlsplit(url).netloc.rpartition('@')[2]}"


def ask_management(url: str) -> str:
    """Ask RabbitMQ's management API, from which Flower has the queues."""
    parts = _parts(url, "http", "https")
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if not parts.path.endswith("/api/"):
        raise Wrong("it does not end in /api/")
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    request = urllib.request.Request(bare + "whoami")  # noqa: S310 (http, looked at above)
    request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S):  # noqa: S310
            return f"answers on {quote(bare, safe=':/[]')}"
    except urllib.error.HTTPError as exc:
        with exc:
            refused = exc.code in (401, 403)
            raise Wrong(
                "user or password is refused" if refused else f"it answers {exc.code}"
            ) from exc
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise Wrong(str(getattr(exc, "reason", exc))) from exc


def _parts(url: str, *schemes: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise Wrong(f"it is no URL: {exc}") from exc
    if parts.scheme not in schemes:
        known = " or ".join(f"{one}://" for one in schemes)
        raise Wrong(f"it does not begin with {known}")
    return parts


def _place(host: str | None, port: int | None, default: int) -> str:
    return f"{host or 'localhost'}:{port or default}"


def _at_least(what: str, version: str, least: tuple[int, ...]) -> None:
    digits = [part for part in version.split(".")[: len(least)] if part.isdigit()]
    if tuple(map(int, digits)) < least:
        wanted = ".".join(map(str, least))
        raise Wrong(f"{what} {version} is too old: {wanted} is the least")

"""The process environment, read once into frozen settings.

Gives    Settings, load; read_resolver, read_smtp_port, host_name for what needs no more
Takes    an environment mapping (os.environ at the composition root)
Raises   SettingsError naming the variable and what is wrong with it

Policy (what operators decide) is not here: it comes in snapshots.
"""

from __future__ import annotations

import base64
import binascii
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from mailcore.errors import PostfleetError

T = TypeVar("T")
SHARED_SPOOLS = ("mongodb", "mongodb+srv")
OUTBOX_STOP_MB = 10_240
STOP_S = 30


class SettingsError(PostfleetError, ValueError):
    """An environment variable that is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process is told by its environment. URLs may hold passwords: never log them."""

    mode: str
    node: str
    var_dir: Path
    database_url: str
    broker_url: str
    redis_url: str
    clickhouse_url: str
    spool_url: str
    secret_keys: Mapping[int, bytes]
    smtp_port: int
    resolver: tuple[str, int] | None
    connections_per_process: int
    log_level: str
    broker_queue_type: str = "classic"
    tls_ca_file: str = ""
    mta_sts_port: int = 443
    outbox_stop_bytes: int = OUTBOX_STOP_MB * 2**20
    stop_s: float = STOP_S

    @property
    def is_lab(self) -> bool:
        """Whether nothing may leave loopback."""
        return self.mode == "lab"

    @property
    def has_shared_spool(self) -> bool:
        """Whether all nodes see the same spool, a database."""
        return urlsplit(self.spool_url).scheme in SHARED_SPOOLS

    @property
    def spool_dir(self) -> Path:
        """The directory of a file spool; SettingsError for any other kind."""
        parts = urlsplit(self.spool_url)
        if parts.scheme != "file":
            raise SettingsError(f"SPOOL_URL: {parts.scheme}:// has no directory")
        return Path(unquote(parts.path))

    @property
    def journal_dir(self) -> Path:
        """Where this node's processes keep their journals."""
        return self.var_dir / "journal"

    @property
    def witness_file(self) -> Path:
        """Where this node's processes write down what they have seen of the ledger."""
        return self.var_dir / "ledger.witness"


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError as exc:
        raise SettingsError(f"{name}: {text!r} is not a whole number") from exc


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def parse_key_ring(text: str) -> dict[int, bytes]:
    """Read `"1:base64,2:base64"` into key id -> 32 bytes; the highest id encrypts and signs."""
    ring: dict[int, bytes] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        number, colon, secret = item.partition(":")
        try:
            key_id, key = int(number), base64.b64decode(secret, validate=True)
        except (ValueError, binascii.Error) as exc:
            raise SettingsError("SECRET_KEYS: an entry is not `number:base64`") from exc
        if not colon or not 0 <= key_id <= 31:
            raise SettingsError("SECRET_KEYS: key numbers go from 0 to 31")
        if len(key) != 32:
            raise SettingsError(f"SECRET_KEYS: key {key_id} is not 32 bytes")
        ring[key_id] = key
    if not ring:
        raise SettingsError("SECRET_KEYS holds no key")
    return ring


def _resolver(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "53")
    try:
        return host, int(port or "53")
    except ValueError as exc:
        raise SettingsError(f"DNS_RESOLVER: {text!r} is not address:port") from exc


def read_resolver(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return DNS_RESOLVER alone, for what looks at the host before there is a process."""
    return _resolver(environ.get("DNS_RESOLVER", ""))


def read_smtp_port(environ: Mapping[str, str]) -> int:
    """Return SMTP_PORT alone."""
    return _number(environ, "SMTP_PORT", 25)


def read_stop_s(environ: Mapping[str, str]) -> float:
    """Return STOP_S alone: how long a process that is asked to stop finishes what it began."""
    reason = "from 5 to 3600 seconds"
    return _checked(
        "STOP_S", _number(environ, "STOP_S", STOP_S), range(5, 3601).__contains__, reason
    )


def host_name() -> str:
    """Return this host's short name, which a node is called unless NODE says otherwise."""
    return socket.gethostname().split(".")[0].lower()


def _checked(name: str, value: T, test: Callable[[T], bool], reason: str) -> T:
    if not test(value):
        raise SettingsError(f"{name}: {reason}")
    return value


def check_spool_url(url: str) -> str:
    """Return it if it names a directory or a database. No reason holds a password."""
    scheme, _, rest = url.partition("://")
    if scheme == "file" and rest.startswith("/"):
        return url
    if scheme not in SHARED_SPOOLS:
        raise SettingsError("SPOOL_URL: neither file:///an/absolute/directory nor mongodb://…")
    place, slash, tail = rest.partition("/")
    login, at, hosts = place.rpartition("@")
    if "@" in login or ("@" in tail and not at) or login.count(":") > 1:
        raise SettingsError("SPOOL_URL: write @ : / ? # and % of its user or password as %XX")
    database = unquote(tail.partition("?")[0])
    if not hosts:
        raise SettingsError("SPOOL_URL: it names no host")
    if not database or set(database) & set('/\\. "$*<>:|?') or len(database) > 63:
        raise SettingsError("SPOOL_URL: it must end in the name of a database, as in …:27017/spool")
    if scheme == "mongodb":  # what mongodb+srv stands for, only DNS knows
        _check_options(f"mongodb://{hosts}{slash}{tail}")
    return url


def _check_options(url: str) -> None:
    """Let the driver, which is loaded only where it is used, look at hosts and options."""
    from pymongo.errors import PyMongoError
    from pymongo.uri_parser import parse_uri

    try:
        parse_uri(url, warn=False)
    except (PyMongoError, ValueError) as exc:
        raise SettingsError(f"SPOOL_URL: {exc}") from exc


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of this process, or raise SettingsError."""
    env = os.environ if environ is None else environ
    queue_types = ("classic", "quorum")
    mode = _checked("MODE", env.get("MODE", "lab"), ("lab", "live").__contains__, "lab or live")
    return Settings(
        mode=mode,
        node=env.get("NODE", "") or host_name(),
        var_dir=Path(env.get("VAR_DIR", "var")).absolute(),
        database_url=_required(env, "DATABASE_URL"),
        broker_url=_required(env, "BROKER_URL"),
        redis_url=_required(env, "REDIS_URL"),
        clickhouse_url=_required(env, "CLICKHOUSE_URL"),
        spool_url=check_spool_url(_required(env, "SPOOL_URL")),
        secret_keys=parse_key_ring(_required(env, "SECRET_KEYS")),
        smtp_port=read_smtp_port(env),
        resolver=read_resolver(env),
        connections_per_process=_number(env, "CONNECTIONS_PER_PROCESS", 500),
        log_level=env.get("LOG_LEVEL", "INFO"),
        broker_queue_type=_checked(
            "BROKER_QUEUE_TYPE",
            env.get("BROKER_QUEUE_TYPE", "") or "classic",
            queue_types.__contains__,
            " or ".join(queue_types),
        ),
        tls_ca_file=_checked(
            "TLS_CA_FILE",
            env.get("TLS_CA_FILE", ""),
            lambda name: not name or os.access(name, os.R_OK),
            "this file cannot be read",
        ),
        mta_sts_port=_number(env, "MTA_STS_PORT", 443),
        outbox_stop_bytes=_checked(
            "OUTBOX_STOP_MB",
            _number(env, "OUTBOX_STOP_MB", OUTBOX_STOP_MB),
            range(2**31).__contains__,
            "a number of megabytes, or 0 for no limit",
        )
        * 2**20,
        stop_s=read_stop_s(env),
    )

"""Look at the environment of a fleet on services of its own before anything is started.

Gives    survey(): one Finding for each variable, with what is wrong with it, or what answered
Takes    an environment mapping; the names of the processes that will run here
Raises   nothing: a fault is a Finding. No finding holds a password
Follows  README.md, "Services of your own"; docs/operate/fleet.md

Everything is looked at, so that one start tells all that is missing. All services are asked at
once; each has a few seconds.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from control.management.fleet import probes
from control.management.fleet.house import FleetError
from control.management.fleet.processes import Listen
from mailio.settings import SettingsError, host_name, load, parse_key_ring
from mailio.smtpd_settings import load_smtpd

NODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
WEB_LISTEN = "127.0.0.1:8025"
FLOWER_LISTEN = "127.0.0.1:8555"
PROBES: Mapping[str, Callable[[str], str]] = {
    "DATABASE_URL": probes.ask_postgresql,
    "BROKER_URL": probes.ask_broker,
    "REDIS_URL": probes.ask_redis,
    "CLICKHOUSE_URL": probes.ask_clickhouse,
    "SPOOL_URL": probes.ask_spool,
}
_NO_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """A variable: `text` is what is wrong with it, or, if it is good, what it leads to."""

    variable: str
    is_good: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok     ' if self.is_good else 'wrong  '} {self.variable}: {self.text}"


def survey(environ: Mapping[str, str], names: Sequence[str]) -> list[Finding]:
    """Look at everything the processes of these names need."""
    with ThreadPoolExecutor(len(PROBES)) as pool:
        asked = {name: pool.submit(_asked, name, environ) for name in PROBES}
        found = [answer.result() for answer in asked.values()]
    found.append(_judged("SECRET_KEYS", environ, _keys))
    found.append(_judged("NODE", {"NODE": host_name(), **_set(environ)}, _node))
    found.append(_judged("MODE", environ, _mode))
    if "web" in names:
        found.append(_judged("WEB_LISTEN", {"WEB_LISTEN": WEB_LISTEN, **_set(environ)}, _free))
        found += _public_url(environ)
    if "smtpd" in names:
        found += _smtpd(environ)
    if "flower" in names:
        given = {"FLOWER_LISTEN": FLOWER_LISTEN, **_set(environ)}
        found.append(_judged("FLOWER_LISTEN", given, _free))
        found += _flower(environ)
    if all(one.is_good for one in found):
        found += _rest(environ)
    return found


def listen_of(environ: Mapping[str, str]) -> tuple[Listen, Listen]:
    """Return where web and Flower listen."""
    web = environ.get("WEB_LISTEN") or WEB_LISTEN
    flower = environ.get("FLOWER_LISTEN") or FLOWER_LISTEN
    return Listen.parse("WEB_LISTEN", web), Listen.parse("FLOWER_LISTEN", flower)


def _set(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if value}


def _judged(variable: str, environ: Mapping[str, str], judge: Callable[[str, str], str]) -> Finding:
    value = environ.get(variable, "")
    if not value:
        return Finding(variable, False, "is not set")
    try:
        if "_URL" in variable:
            _check_login(value)
        return Finding(variable, True, judge(variable, value))
    except (probes.Wrong, FleetError, SettingsError) as exc:
        reason = str(exc).removeprefix(f"{variable}: ").removeprefix(f"{variable} ")
        return Finding(variable, False, _clean(reason, value))


def _asked(variable: str, environ: Mapping[str, str]) -> Finding:
    return _judged(variable, environ, lambda _, value: PROBES[variable](value))


def _check_login(url: str) -> None:
    """Refuse a user or password with a character that ends it. Each driver would take another part
    of it for a host, and repeat it."""
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = authority.rpartition("@")[2].rpartition(":")[2]
    is_cut = "@" not in authority and "@" in rest and (":" in authority and not port.isdigit())
    login = authority.rpartition("@")[0]
    if is_cut or "@" in login or re.search(r"%(?![0-9A-Fa-f]{2})", login):
        raise probes.Wrong("write @ : / ? # and % of its user or password as %XX")


def _clean(reason: str, value: str) -> str:
    """Return a reason as one line without the password of the URL it is about."""
    text = _NO_CONTROL.sub(" ", reason).strip()
    raw = value.partition("://")[2].rpartition("@")[0].partition(":")[2]
    for secret in sorted({raw, unquote(raw)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _keys(_variable: str, value: str) -> str:
    ring = parse_key_ring(value)
    return f"{len(ring)} key{'s' * (len(ring) > 1)}, number {max(ring)} seals and signs"


def _node(_variable: str, value: str) -> str:
    if not NODE.fullmatch(value):
        raise FleetError(f"{value!r} is not of lower-case letters, digits and inner hyphens")
    return value


def _mode(_variable: str, value: str) -> str:
    if value not in ("lab", "live"):
        raise FleetError(f"{value!r} is neither lab nor live")
    return "lab: nothing leaves this machine" if value == "lab" else "live: mail is really sent"


def _free(variable: str, value: str) -> str:
    listen = Listen.parse(variable, value)
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.port))
            probe.listen()
    except OSError as exc:
        raise FleetError(f"{listen} cannot be listened on: {exc.strerror or exc}") from exc
    return str(listen)


def _public_url(environ: Mapping[str, str]) -> list[Finding]:
    value = environ.get("PUBLIC_URL", "")
    if not value:
        return []
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [Finding("PUBLIC_URL", False, f"{value!r} is not http://… or https://…")]
    return [Finding("PUBLIC_URL", True, value)]


def _smtpd(environ: Mapping[str, str]) -> list[Finding]:
    """Read what the listener is told as it does itself."""
    try:
        settings = load_smtpd(environ)
    except SettingsError as exc:
        variable, reason = str(exc).split(maxsplit=1)
        return [Finding(variable.rstrip(":"), False, reason)]
    files = (("SMTPD_TLS_CERT", settings.tls_cert), ("SMTPD_TLS_KEY", settings.tls_key))
    for variable, path in files:
        if path is not None and not os.access(path, os.R_OK):
            return [Finding(variable, False, f"{path} cannot be read")]
    return [
        _judged(
            variable, {variable: f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}, _free
        )
        for variable, addresses in (
            ("SMTPD_LISTEN", settings.listen),
            ("SMTPD_TLS_LISTEN", settings.tls_listen),
        )
        for host, port in addresses
    ]


def _flower(environ: Mapping[str, str]) -> list[Finding]:
    """Look at what Flower is told; never repeat it, for both hold passwords."""
    found = []
    people = environ.get("FLOWER_BASIC_AUTH", "")
    if people:
        is_good = all(all(one.partition(":")[::2]) for one in people.split(","))
        text = "is set" if is_good else "is not user:password"
        found.append(Finding("FLOWER_BASIC_AUTH", is_good, text))
    api = environ.get("FLOWER_BROKER_API", "")
    if api:
        found.append(_judged("FLOWER_BROKER_API", environ, lambda _, value: _management(value)))
    return found


def _management(url: str) -> str:
    try:
        _check_login(url)
        is_plain = "%" not in url.partition("://")[2].rpartition("@")[0]
    except probes.Wrong:
        is_plain = False
    if not is_plain:
        # Its HTTP client sends a login as the URL has it.
        raise probes.Wrong(
            "Flower does not read %XX: give its user a password without @ : / ? # and %"
        )
    return probes.ask_management(url)


def _rest(environ: Mapping[str, str]) -> list[Finding]:
    """Read everything as a process does, for what is left."""
    try:
        settings = load(environ)
    except SettingsError as exc:
        variable, _, reason = str(exc).partition(": ")
        return [Finding(variable, False, reason)]
    return [_var_dir(settings.var_dir)]


def _var_dir(path: Path) -> Finding:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        return Finding("VAR_DIR", False, f"{path}: {exc.strerror}")
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding("VAR_DIR", False, f"{path} cannot be written")
    return Finding("VAR_DIR", True, str(path))

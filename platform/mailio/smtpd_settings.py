"""What the SMTP listener is told by its environment.

Gives    SmtpdSettings, load_smtpd; read_ourselves, for who sends and must not send to us;
         read_smtpd_host for what needs no more
Raises   SettingsError naming the variable and what is wrong with it
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mailcore.address import parse_domain
from mailcore.errors import AddressError
from mailio.settings import SettingsError

TLS_LISTEN = "SMTPD_TLS_LISTEN"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class SmtpdSettings:
    """Where to listen, for whom, and how much at once. `networks` name accounts by their login
    name; the first that holds an address counts."""

    listen: tuple[tuple[str, int], ...]
    tls_listen: tuple[tuple[str, int], ...]
    tls_cert: Path | None
    tls_key: Path | None
    host: str
    networks: tuple[tuple[Network, str], ...]
    message_bytes: int = 25 * 2**20
    connections: int = 1000
    connections_per_address: int = 100
    messages_per_minute: int = 0
    memory_bytes: int = 256 * 2**20
    shows_client: bool = False


def load_smtpd(environ: Mapping[str, str]) -> SmtpdSettings:
    """Return the settings of the listener, or raise SettingsError."""
    cert, key = environ.get("SMTPD_TLS_CERT", ""), environ.get("SMTPD_TLS_KEY", "")
    listen = _addresses(environ, "SMTPD_LISTEN")
    tls_listen = _addresses(environ, TLS_LISTEN)
    networks = _networks(environ.get("SMTPD_NETWORKS", ""))
    if not listen and not tls_listen:
        raise SettingsError("SMTPD_LISTEN is not set")
    if bool(cert) != bool(key):
        raise SettingsError("SMTPD_TLS_CERT and SMTPD_TLS_KEY belong together")
    if tls_listen and not cert:
        raise SettingsError("SMTPD_TLS_LISTEN needs SMTPD_TLS_CERT and SMTPD_TLS_KEY")
    if not cert and not networks:
        detail = "nobody can log in without TLS, and SMTPD_NETWORKS names no host of yours"
        raise SettingsError(f"SMTPD_TLS_CERT is not set: {detail}")
    message_bytes = _count(environ, "SMTPD_MESSAGE_BYTES", 25 * 2**20, 1024, 2**30)
    memory_bytes = _count(environ, "SMTPD_MEMORY_BYTES", 256 * 2**20, 2**20, 2**40)
    if memory_bytes < 3 * message_bytes:
        # One account may hold half, and dots that are doubled take room of their own.
        detail = f"is less than three times SMTPD_MESSAGE_BYTES ({message_bytes})"
        raise SettingsError(f"SMTPD_MEMORY_BYTES: {memory_bytes} {detail}")
    return SmtpdSettings(
        listen=listen,
        tls_listen=tls_listen,
        tls_cert=Path(cert) if cert else None,
        tls_key=Path(key) if key else None,
        host=_host(environ.get("SMTPD_HOST", "")),
        networks=networks,
        message_bytes=message_bytes,
        connections=_count(environ, "SMTPD_CONNECTIONS", 1000, 1, 100_000),
        connections_per_address=_count(environ, "SMTPD_CONNECTIONS_PER_ADDRESS", 100, 1, 100_000),
        messages_per_minute=_count(environ, "SMTPD_MESSAGES_PER_MINUTE", 0, 0, 10**9),
        memory_bytes=memory_bytes,
        shows_client=_flag(environ, "SMTPD_SHOW_CLIENT"),
    )


def read_ourselves(
    environ: Mapping[str, str],
) -> tuple[frozenset[str], frozenset[tuple[str, int]]]:
    """Return the names and the listeners of this node's SMTP server, if it has one."""
    listen = frozenset((*_addresses(environ, "SMTPD_LISTEN"), *_addresses(environ, TLS_LISTEN)))
    name = environ.get("SMTPD_HOST", "")
    return frozenset({_host(name)} if listen or name else ()), listen


def read_smtpd_host(environ: Mapping[str, str]) -> str:
    """Return SMTPD_HOST alone: who we are in what we write, whether we listen or not."""
    return _host(environ.get("SMTPD_HOST", ""))


def _addresses(environ: Mapping[str, str], name: str) -> tuple[tuple[str, int], ...]:
    found = []
    for text in filter(None, (part.strip() for part in environ.get(name, "").split(","))):
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise SettingsError(f"{name}: {text!r} is not address:port")
        found.append((host.strip("[]"), int(port)))
    return tuple(found)


def _networks(text: str) -> tuple[tuple[Network, str], ...]:
    found: list[tuple[Network, str]] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        network, colon, account = entry.rpartition(":")
        try:
            parsed = ipaddress.ip_network(network.strip("[]"))
        except ValueError as exc:
            raise SettingsError(f"SMTPD_NETWORKS: {entry!r}: {exc}") from exc
        if not colon or not account:
            raise SettingsError(f"SMTPD_NETWORKS: {entry!r} is not network:account")
        if parsed.prefixlen == 0:
            raise SettingsError(f"SMTPD_NETWORKS: {entry!r} would let the whole world send")
        found.append((parsed, account))
    return tuple(found)


def _host(text: str) -> str:
    if not text:
        return socket.getfqdn().lower()
    try:
        return parse_domain(text)
    except AddressError as exc:
        raise SettingsError(f"SMTPD_HOST: {exc}") from exc


def _count(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise SettingsError(f"{name}: {text!r} is not a whole number from {least} to {most}")
    return int(text)


def _flag(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "")
    if text not in ("", "0", "1"):
        raise SettingsError(f"{name}: {text!r} is not 0 or 1")
    return text == "1"

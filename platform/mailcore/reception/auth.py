"""The exchanges of AUTH PLAIN and AUTH LOGIN, without who may log in.

Gives    Login: for whom a session sends; Exchange: begin and go_on, each returning a challenge
         or credentials
Raises   CommandFault with the reply to give
Follows  RFC 4954 §4 (AUTH), RFC 4616 (PLAIN), draft-murchison-sasl-login (LOGIN)
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

from mailcore.reception.commands import CommandFault
from mailcore.reception.values import Identity

MECHANISMS = ("PLAIN", "LOGIN")
_USER = b"334 VXNlcm5hbWU6\r\n"
_PASSWORD = b"334 UGFzc3dvcmQ6\r\n"
_EMPTY = b"334 \r\n"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client logs in with."""

    user: str
    password: str = field(repr=False)


class Login:
    """For whom a session sends, and how far it is with telling."""

    __slots__ = ("_own", "exchange", "failures", "identity", "is_authenticated")

    def __init__(self, own: Identity | None) -> None:
        self._own = own
        self.failures = 0
        self.forget()

    def forget(self) -> None:
        """Know nobody but the host itself. Failures are not forgotten."""
        self.identity = self._own
        self.is_authenticated = False
        self.exchange: Exchange | None = None

    def accept(self, identity: Identity) -> None:
        """The credentials are good."""
        self.identity = identity
        self.is_authenticated = True
        self.failures = 0

    def advance(self, text: str) -> bytes | Credentials:
        """Take an AUTH command's argument, or the answer to a challenge."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            mechanism, _, initial = text.partition(" ")
            exchange = Exchange(mechanism.upper() if mechanism.isascii() else "")
            given = exchange.begin(initial.strip())
        else:
            given = exchange.go_on(text)
        if isinstance(given, bytes):
            self.exchange = exchange
        return given


class Exchange:
    """One AUTH command until it has given credentials."""

    def __init__(self, mechanism: str) -> None:
        if mechanism not in MECHANISMS:
            raise CommandFault(504, "5.5.4", f"mechanisms are {' '.join(MECHANISMS)}")
        self._is_plain = mechanism == "PLAIN"
        self._user: str | None = None

    def begin(self, initial: str) -> bytes | Credentials:
        """Take the initial response; "" if the client gave none, "=" for an empty one."""
        if initial:
            return self._take(b"" if initial == "=" else _decoded(initial))
        return _EMPTY if self._is_plain else _USER

    def go_on(self, line: str) -> bytes | Credentials:
        """Take the answer to a challenge."""
        if line == "*":
            raise CommandFault(501, "5.7.0", "authentication was cancelled")
        return self._take(_decoded(line))

    def _take(self, response: bytes) -> bytes | Credentials:
        if self._is_plain:
            return _plain(response)
        if self._user is None:
            self._user = _text(response)
            return _PASSWORD
        return Credentials(self._user, _text(response))


def _plain(response: bytes) -> Credentials:
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise CommandFault(501, "5.5.2", "PLAIN takes an authorisation id, a user and a password")
    authorisation, user, password = (_text(part) for part in parts)
    if authorisation not in ("", user):
        raise CommandFault(535, "5.7.8", "nobody may act for another user")
    return Credentials(user, password)


def _decoded(line: str) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CommandFault(501, "5.5.2", "this is no base64") from exc


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise CommandFault(501, "5.5.2", "user and password are UTF-8") from exc

"""How we say to a relay who we are.

Gives    Credentials, Mechanism, choose_mechanisms, Exchange (one attempt with one mechanism),
         Redaction (what a server must not be quoted with)
Takes    what the server offers, whether the session is under TLS, the server's challenges
Raises   nothing: what a mechanism cannot answer is cancelled
Follows  RFC 4954 (AUTH), RFC 4616 (PLAIN), RFC 2195 (CRAM-MD5), the LOGIN and XOAUTH2 of practice
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field
from enum import Enum

# RFC 4954 §4: a longer command line waits for the server's go-ahead before its response.
MAX_COMMAND = 510
# So many octets of a secret in a row are told of nobody.
LEAST_TOLD = 8


class Mechanism(Enum):
    """The SASL mechanisms we speak."""

    PLAIN = "PLAIN"
    LOGIN = "LOGIN"
    CRAM_MD5 = "CRAM-MD5"
    XOAUTH2 = "XOAUTH2"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a relay. `secret` is the password, or the access token for XOAUTH2.

    `mechanism` None: the best one that the server offers; XOAUTH2 only when it is named, since a
    token is no password. `allows_clear`: the operator lets them travel without TLS.
    """

    user: str
    secret: str = field(repr=False)
    mechanism: Mechanism | None = None
    allows_clear: bool = False


# Under TLS the simplest one works with every store of passwords; in clear the one that does not
# give the password away goes first.
_UNDER_TLS = (Mechanism.PLAIN, Mechanism.LOGIN, Mechanism.CRAM_MD5)
_IN_CLEAR = (Mechanism.CRAM_MD5, Mechanism.PLAIN, Mechanism.LOGIN)


def choose_mechanisms(
    credentials: Credentials, offered: frozenset[str], *, is_tls: bool
) -> tuple[Mechanism, ...]:
    """Return the mechanisms to try, the best first."""
    if credentials.mechanism is not None:
        wanted: tuple[Mechanism, ...] = (credentials.mechanism,)
    else:
        wanted = _UNDER_TLS if is_tls else _IN_CLEAR
    return tuple(each for each in wanted if each.value in offered)


class Exchange:
    """One attempt with one mechanism: our half of it."""

    __slots__ = ("_answers", "_credentials", "is_cancelled", "mechanism")

    def __init__(self, mechanism: Mechanism, credentials: Credentials) -> None:
        self.mechanism = mechanism
        self.is_cancelled = False
        self._credentials = credentials
        self._answers = self._prepared()

    def command(self) -> bytes:
        """Return the AUTH command, with the initial response where the mechanism has one."""
        command = b"AUTH " + self.mechanism.value.encode("ascii")
        if self.mechanism in (Mechanism.PLAIN, Mechanism.XOAUTH2):
            whole = command + b" " + base64.b64encode(self._answers[0])
            if len(whole) <= MAX_COMMAND:
                del self._answers[0]
                command = whole
        return command + b"\r\n"

    def answer(self, challenge: bytes) -> bytes:
        """Return the line that answers a 334; `*` cancels what we cannot answer."""
        answer = None
        if self.mechanism is Mechanism.CRAM_MD5 and not self._answers:
            answer = self._digest(challenge)
            self._answers.append(b"")  # It is asked for once.
        elif self.mechanism is not Mechanism.CRAM_MD5 and self._answers:
            answer = self._answers.pop(0)
        if answer is None:
            self.is_cancelled = True
            return b"*\r\n"
        return base64.b64encode(answer) + b"\r\n"

    def _prepared(self) -> list[bytes]:
        user, secret = self._credentials.user.encode(), self._credentials.secret.encode()
        match self.mechanism:
            case Mechanism.PLAIN:
                return [b"\0%s\0%s" % (user, secret)]
            case Mechanism.LOGIN:
                return [user, secret]
            case Mechanism.XOAUTH2:
                # A refusal comes as a challenge with the reason; an empty line asks for its 535.
                return [b"user=%s\1auth=Bearer %s\1\1" % (user, secret), b""]
            case Mechanism.CRAM_MD5:
                return []

    def _digest(self, challenge: bytes) -> bytes | None:
        try:
            asked = base64.b64decode(challenge, validate=True)
            digest = hmac.digest(self._credentials.secret.encode(), asked, "md5")
        except (binascii.Error, ValueError):  # No base64, or no MD5 on this machine.
            return None
        return self._credentials.user.encode() + b" " + digest.hex().encode("ascii")


class Redaction:
    """Takes out of a server's words what they repeat of ours, in whole or in part."""

    __slots__ = ("_parts",)

    def __init__(self, credentials: Credentials) -> None:
        self._parts: set[bytes] = set()
        secret = credentials.secret.encode()
        self.hide(secret)
        self.hide(base64.b64encode(secret))

    def hide(self, said: bytes) -> None:
        """Remember what nobody else may read."""
        # In any case: some servers repeat a command in capitals.
        said = said.strip().lower()
        for form in (said, said.rstrip(b"=")):
            last = max(len(form) - LEAST_TOLD, 0)
            self._parts |= {form[at : at + LEAST_TOLD] for at in range(last + 1)} - {b""}

    def clean(self, text: bytes) -> bytes:
        """Return the text with marks in the place of what is hidden."""
        lowered, hidden = text.lower(), bytearray(len(text))
        for size in {len(part) for part in self._parts}:
            for at in range(len(text) - size + 1):
                if lowered[at : at + size] in self._parts:
                    hidden[at : at + size] = b"*" * size
        cleaned, end = [], 0
        for found in re.finditer(rb"\*+", hidden):
            cleaned += [text[end : found.start()], b"***"]
            end = found.end()
        return b"".join((*cleaned, text[end:]))

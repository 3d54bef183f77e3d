"""How we say to a relay who we are.

Gives    Credentials, Mechanism, choose_mechanisms, Exchange (one attempt with one mechanism)
Takes    what the server offers, whether the session is under TLS, the server's challenges
Raises   nothing: what a mechanism cannot answer is cancelled
Follows  RFC 4954 (AUTH), RFC 4616 (PLAIN), RFC 2195 (CRAM-MD5), the LOGIN and XOAUTH2 of practice
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field, replace
from enum import Enum

from mailcore.reply import SmtpReply

# RFC 4954 §4: a longer command line waits for the server's go-ahead before its response.
MAX_COMMAND = 510


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


def redacted(reply: SmtpReply, credentials: Credentials) -> SmtpReply:
    """Return the reply without what a talkative server repeated of our secret."""
    user, secret = credentials.user, credentials.secret
    if not secret:
        return reply
    # The longer form first: it may contain the other.
    sent = (b"\0%s\0%s" % (user.encode(), secret.encode()), secret.encode())
    lines = reply.lines
    for form in (*(base64.b64encode(each).decode("ascii") for each in sent), secret):
        lines = tuple(line.replace(form, "***") for line in lines)
    return reply if lines == reply.lines else replace(reply, lines=lines)

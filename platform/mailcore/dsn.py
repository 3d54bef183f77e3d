"""Which reports the sender of a message wants, from the door to the wire and to the report.

Gives    DsnReturn, Notify; DsnRequest (what a transaction carries); DsnOrder (what a row keeps of
         a message that came by SMTP); DsnFacts (what an event keeps, for whoever writes the report
         once the row is gone); xtext, from_xtext, printable_xtext, to_xtext_address;
         facts_text, asks_for_delay; dsn_of_message, request_of_all (recipients that share)
Takes    the parameters of MAIL and RCPT, or the text of a row or an event
Raises   SchemaError for a text that is none of ours
Follows  RFC 3461 §4 (parameters), RFC 6533 §3 (addresses in UTF-8), RFC 8689 §5 (REQUIRETLS)

The text is words parted by blanks, each a letter and its value. `S` alone is a message that came
by SMTP and asks for nothing in particular. Rows of other mail have "" and nobody gets a report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from mailcore.envelope import ContentRef
from mailcore.errors import SchemaError

MAX_ENVID = 100
MAX_ORCPT = 500
_XCHARS = frozenset(map(chr, range(33, 127))) - set("+=")
_QCHARS = _XCHARS - {"\\"}
_HEX = re.compile(r"\+([0-9A-F]{2})")
_FROM_SMTP = "S"


class DsnReturn(Enum):
    """How much of a failed message its report is to carry."""

    FULL = "FULL"
    HEADERS = "HDRS"


class Notify(Enum):
    """What a recipient's reports are wanted for; NEVER stands alone."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


_RETURNS = {"F": DsnReturn.FULL, "H": DsnReturn.HEADERS}
_RETURN_LETTERS = {value: letter for letter, value in _RETURNS.items()}
_NOTIFIES = {each.value[0].lower(): each for each in Notify}


@dataclass(frozen=True, slots=True)
class DsnRequest:
    """Which reports the sender wants; it travels where DSN is offered and is dropped elsewhere.

    `original_recipients` stand in the order of the forward-paths, as addresses; "" for none.
    `orcpts` are the same as a client gave them, with their type and in xtext: where there is one,
    it goes on as it came.
    """

    envid: str = ""
    returns: DsnReturn | None = None
    notify: frozenset[Notify] = frozenset()
    original_recipients: tuple[str, ...] = ()
    orcpts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DsnOrder:
    """What a client asked for at MAIL and RCPT. `envid` is decoded, `orcpt` is as given.

    `due_ms` is when the message was to be sent first, if that was later than it came. What is
    told of a message that `requires_tls` is its header at most, and goes the same way.
    """

    returns: DsnReturn | None = None
    envid: str = ""
    notify: frozenset[Notify] = frozenset()
    orcpt: str = ""
    due_ms: int = 0
    requires_tls: bool = False

    @classmethod
    def of_mail(cls, *, ret: str, envid: str, due_ms: int = 0, requires_tls: bool = False) -> Self:
        """Return what the parameters of MAIL ask for; "" for one that was not given."""
        returns = DsnReturn(ret) if ret else None
        if requires_tls:
            returns = DsnReturn.HEADERS
        return cls(returns, from_xtext(envid), due_ms=due_ms, requires_tls=requires_tls)

    def of_rcpt(self, notify: str, orcpt: str) -> Self:
        """Return what those of RCPT ask for beside."""
        asked = frozenset(map(Notify, notify.split(","))) if notify else frozenset()
        return replace(self, notify=asked, orcpt=orcpt)

    def to_text(self) -> str:
        """Return it as a row keeps it."""
        words = [_FROM_SMTP]
        if self.returns is not None:
            words.append("R" + _RETURN_LETTERS[self.returns])
        if self.notify:
            asked = (letter for letter, each in _NOTIFIES.items() if each in self.notify)
            words.append("N" + "".join(asked))
        if self.envid:
            words.append("E" + xtext(self.envid))
        if self.orcpt:
            words.append("O" + self.orcpt)
        if self.due_ms:
            words.append(f"T{self.due_ms}")
        if self.requires_tls:
            words.append("Q")
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a row's text says; what a newer writer added is left out."""
        return cls._of(_words(text))

    @classmethod
    def _of(cls, words: dict[str, str]) -> Self:
        try:
            return cls(
                returns=_RETURNS[words["R"]] if "R" in words else None,
                envid=from_xtext(words.get("E", "")),
                notify=frozenset(_NOTIFIES[letter] for letter in words.get("N", "")),
                orcpt=words.get("O", ""),
                due_ms=int(words.get("T", "0")),
                requires_tls="Q" in words,
            )
        except (KeyError, ValueError) as exc:
            raise SchemaError(f"an order for reports cannot be read: {exc}") from exc

    def wants(self, notify: Notify) -> bool:
        """Whether the sender is to be told; without a word about it, of failures alone."""
        return notify in (self.notify or {Notify.FAILURE})

    def request(self, *, returns_to_us: bool) -> DsnRequest | None:
        """Return what is asked of the next server, None for nothing.

        `returns_to_us`: a signed return path of ours stands in place of the sender's. A report of
        success would come to us, who told the sender already: it is not asked for.
        """
        notify = self.notify - {Notify.SUCCESS} if returns_to_us else self.notify
        if not (self.returns or self.envid or notify or self.orcpt):
            return None
        orcpts = (self.orcpt,) if self.orcpt else ()
        return DsnRequest(self.envid, self.returns, notify, orcpts=orcpts)


@dataclass(frozen=True, slots=True)
class DsnFacts:
    """What a report needs that its event does not say otherwise.

    `is_passed_on`: the server that took the message reports of success itself. `is_local`: the
    event's reply is an answer of our own, which no server gave.
    """

    order: DsnOrder
    reverse_path: str
    content: ContentRef
    expires_ms: int = 0
    is_passed_on: bool = False
    is_local: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what an event's text says."""
        words = _words(text)
        try:
            segment, offset, length, crc = map(int, words["C"].split("."))
            return cls(
                order=DsnOrder._of(words),
                reverse_path=from_xtext(words.get("P", "")),
                content=ContentRef(segment, offset, length, crc),
                expires_ms=int(words.get("X", "0")),
                is_passed_on="D" in words,
                is_local="L" in words,
            )
        except (KeyError, ValueError) as exc:
            raise SchemaError(f"the facts for a report cannot be read: {exc}") from exc


def facts_text(
    order: str,
    *,
    reverse_path: str,
    content: ContentRef,
    expires_ms: int = 0,
    is_passed_on: bool = False,
    is_local: bool = False,
) -> str:
    """Return the text of DsnFacts, made of a row's: this is done for every event of such rows."""
    place = f"{content.segment}.{content.offset}.{content.length}.{content.crc}"
    flags = (" D" if is_passed_on else "") + (" L" if is_local else "")
    end = f" X{expires_ms}" if expires_ms else ""
    return f"{order} P{xtext(reverse_path)} C{place}{end}{flags}"


def asks_for_delay(text: str) -> bool:
    """Whether a row's text asks for reports of delay; cheap, and never fails."""
    return any(word[:1] == "N" and "d" in word for word in text.split(" "))


def dsn_of_message(text: str) -> str:
    """Return a row's text without what is about its recipient alone."""
    if "O" not in text:
        return text
    return " ".join(word for word in text.split(" ") if word[:1] != "O")


def request_of_all(requests: Sequence[DsnRequest | None]) -> DsnRequest | None:
    """Return one request for a recipient each, equal in all but who they were at first."""
    first = next(filter(None, requests), None)
    if first is None:
        return None
    return replace(
        first,
        original_recipients=_joined(
            [each.original_recipients if each else () for each in requests]
        ),
        orcpts=_joined([each.orcpts if each else () for each in requests]),
    )


def _joined(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(part[0] if part else "" for part in parts) if any(parts) else ()


def _words(text: str) -> dict[str, str]:
    first, *others = text.split(" ")
    if first != _FROM_SMTP:
        raise SchemaError(f"an order for reports begins with {first[:20]!r}")
    return {word[:1]: word[1:] for word in others}


# ── the texts of parameters ───────────────────────────────────────────────────────────────────


def xtext(text: str) -> str:
    """Return text as RFC 3461 §4 writes it in a parameter."""
    return "".join(
        chr(octet) if chr(octet) in _XCHARS else f"+{octet:02X}" for octet in text.encode()
    )


def from_xtext(text: str) -> str:
    """Return what xtext stands for; ValueError if that is no UTF-8."""
    if "+" not in text:
        return text
    octets = _HEX.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")
    return octets.decode("utf-8")


def printable_xtext(text: str) -> str | None:
    """Return what xtext stands for where that is printable ASCII, as it must be in an envelope
    id and in an address that is no `utf-8` one; else None."""
    try:
        plain = from_xtext(text)
    except ValueError:
        return None
    return plain if plain.isascii() and plain.isprintable() else None


def to_xtext_address(address: str) -> str:
    """Return an address of type `utf-8` in ASCII (RFC 6533 §3, `utf-8-addr-xtext`)."""
    return "".join(each if each in _QCHARS else f"\\x{{{ord(each):X}}}" for each in address)

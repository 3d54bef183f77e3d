"""Mailboxes and domain names, parsed once at the border.

Gives    Domain, ForwardPath, ReversePath
Takes    text as people and programs write it (UTF-8, IDN, any case)
Raises   AddressError, whose message names what is wrong
Follows  RFC 5321 §4.1.2 and §4.5.3.1 (syntax, limits), RFC 6531 (UTF-8), RFC 5891 (IDNA)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import idna

from mailcore.errors import AddressError

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\Z")
_DOT_STRING = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-\u0080-\U0010ffff]+\Z")
_QUOTED = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\u0080-\U0010ffff]|\\[\x20-\x7e])*"\Z')
_LITERAL = re.compile(r"\[(?:\d{1,3}(?:\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]+)\]\Z")


def to_a_label(text: str) -> str:
    """Return a domain name in lower-case A-labels, or raise AddressError."""
    name = text.strip().rstrip(".").lower()
    if not name:
        raise AddressError("the domain is empty")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as exc:
            raise AddressError(f"the domain {text!r} is no internationalised name: {exc}") from exc
    if len(name) > 253:
        raise AddressError("the domain is longer than 253 octets")
    for label in name.split("."):
        if not _LABEL.match(label):
            raise AddressError(f"the domain {text!r} has a malformed label {label!r}")
    return name


def parse_domain(text: str) -> str:
    """Return a mail domain (at least two labels, A-labels, lower case), or raise AddressError."""
    name = to_a_label(text)
    if "." not in name:
        raise AddressError(f"the domain {text!r} has no dot")
    return name


def _parse_mailbox(text: str) -> tuple[str, str]:
    for character in text:
        if ord(character) < 0x20 or ord(character) == 0x7F:
            raise AddressError("the address contains a control character")
    local_part, at, domain = text.strip().rpartition("@")
    if not at:
        raise AddressError(f"the address {text!r} has no @")
    if not local_part or not domain:
        raise AddressError(f"the address {text!r} is incomplete")
    if len(local_part.encode()) > 64:
        raise AddressError("the local part is longer than 64 octets")
    if local_part.startswith('"'):
        if not _QUOTED.match(local_part):
            raise AddressError(f"the quoted local part of {text!r} is malformed")
    elif (
        not _DOT_STRING.match(local_part)
        or ".." in local_part
        or local_part[0] == "."
        or local_part[-1] == "."
    ):
        raise AddressError(f"the local part of {text!r} is malformed")
    if _LITERAL.match(domain):
        raise AddressError("address literals are not accepted as a recipient or sender domain")
    name = parse_domain(domain)
    if len(local_part.encode()) + 1 + len(name) > 254:
        raise AddressError("the address is longer than 254 octets")
    return local_part, name


@dataclass(frozen=True, slots=True)
class ForwardPath:
    """The argument of RCPT TO: one recipient. `domain` is in A-labels, lower case."""

    local_part: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mailbox that `text` names, or raise AddressError."""
        return cls(*_parse_mailbox(text))

    @property
    def needs_smtputf8(self) -> bool:
        """Whether the local part can only be sent with SMTPUTF8 (RFC 6531)."""
        return not self.local_part.isascii()

    @property
    def key(self) -> str:
        """The form that stop lists and duplicate checks compare: wholly lower case."""
        return f"{self.local_part.lower()}@{self.domain}"

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"


@dataclass(frozen=True, slots=True)
class ReversePath:
    """The argument of MAIL FROM. The null reverse-path `<>` has two empty parts."""

    local_part: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mailbox, or the null reverse-path for `""` and `"<>"`."""
        if text.strip() in ("", "<>"):
            return cls("", "")
        return cls(*_parse_mailbox(text))

    @property
    def is_null(self) -> bool:
        """Whether this is `<>`, to which no report may be sent."""
        return not self.domain

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}" if self.domain else ""

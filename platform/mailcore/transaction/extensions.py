"""What a server offers in its answer to EHLO.

Gives    Extensions
Takes    the raw lines of the answer
Raises   nothing: a value that makes no sense limits nothing
Follows  RFC 5321 §4.1.1.1; RFC 1870 (SIZE), RFC 4954 (AUTH), RFC 9422 (LIMITS)
"""

from __future__ import annotations

from dataclasses import dataclass

from mailcore.transaction.replies import text_of


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a server offered. `size` None: not offered; 0: no limit. Of the limits 0 is none."""

    pipelining: bool = False
    eight_bit: bool = False
    smtputf8: bool = False
    starttls: bool = False
    size: int | None = None
    chunking: bool = False
    enhanced_codes: bool = False
    dsn: bool = False
    require_tls: bool = False
    auth: frozenset[str] = frozenset()
    mail_max: int = 0
    rcpt_max: int = 0
    rcpt_domain_max: int = 0

    @classmethod
    def parse(cls, lines: tuple[bytes, ...]) -> Extensions:
        """Read the lines of an EHLO answer; the first one is the server's name."""
        offered: dict[str, str] = {}
        auth: set[str] = set()
        for line in lines[1:]:
            keyword, _, value = text_of(line).strip().partition(" ")
            keyword = keyword.upper()
            if keyword == "AUTH" or keyword.startswith("AUTH="):
                # Servers of old wrote `AUTH=LOGIN`, often beside the right form.
                auth.update(f"{keyword[5:]} {value}".upper().split())
            offered[keyword] = value.strip()
        size = offered.get("SIZE")
        limits = _limits(offered.get("LIMITS", ""))
        return cls(
            pipelining="PIPELINING" in offered,
            eight_bit="8BITMIME" in offered,
            smtputf8="SMTPUTF8" in offered,
            starttls="STARTTLS" in offered,
            # A value that is no number limits nothing that we could check.
            size=None if size is None else _number(size),
            chunking="CHUNKING" in offered,
            enhanced_codes="ENHANCEDSTATUSCODES" in offered,
            dsn="DSN" in offered,
            require_tls="REQUIRETLS" in offered,
            auth=frozenset(auth),
            mail_max=limits.get("MAILMAX", 0),
            rcpt_max=limits.get("RCPTMAX", 0),
            rcpt_domain_max=limits.get("RCPTDOMAINMAX", 0),
        )


def _limits(text: str) -> dict[str, int]:
    """Return RFC 9422 limits by name; unknown ones are somebody else's."""
    limits = {}
    for word in text.split():
        name, _, value = word.partition("=")
        limits[name.upper()] = _number(value)
    return limits


def _number(text: str) -> int:
    # More digits than any size has would cost time to convert, and limit nothing.
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 20 else 0

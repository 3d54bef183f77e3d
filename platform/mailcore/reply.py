"""A server's answer as a value.

Gives    SmtpReply, EnhancedStatus
Takes    a code and lines of text, or a sentence of our own (`SmtpReply.local`)
Raises   ReplySyntaxError from the parsers, nothing from the values
Follows  RFC 5321 §4.2 (replies), RFC 2034 and RFC 3463 (enhanced status)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?:\s+|\Z)")
_NOISE = (
    (re.compile(r"<[^<>\s]*@[^<>\s]*>|[^\s<>,;:()\"']+@[^\s<>,;:()\"']+\.\w+"), "<addr>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "<ip>"),
    (re.compile(r"\b(?:[0-9a-f]{1,4}:){3,7}[0-9a-f:]{1,}", re.I), "<ip>"),
    (re.compile(r"https?://\S+", re.I), "<url>"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[a-z])\w[\w.\-]{7,}\b", re.I), "<id>"),
    (re.compile(r"\b\d{5,}\b"), "<n>"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, slots=True)
class EnhancedStatus:
    """RFC 3463 `class.subject.detail`."""

    klass: int
    subject: int
    detail: int

    @classmethod
    def find(cls, text: str) -> tuple[Self | None, str]:
        """Split a leading enhanced status off a line of reply text."""
        match = _ENHANCED.match(text)
        if match is None:
            return None, text
        klass, subject, detail = match.groups()
        return cls(int(klass), int(subject), int(detail)), text[match.end() :]

    def __str__(self) -> str:
        return f"{self.klass}.{self.subject}.{self.detail}"


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """One reply: `code` (200-599), the enhanced status if any, and its text lines.

    `is_local` marks an answer we made ourselves (no MX, timeout, stop): no server said it.
    """

    code: int
    lines: tuple[str, ...] = ()
    enhanced: EnhancedStatus | None = None
    is_local: bool = False

    @classmethod
    def of(cls, code: int, lines: tuple[str, ...]) -> Self:
        """Build a reply from its code and raw text lines, taking out the enhanced status."""
        enhanced: EnhancedStatus | None = None
        texts: list[str] = []
        if len(lines) == 1:
            # As nearly all are: this is looked at for every message.
            enhanced, text = EnhancedStatus.find(lines[0])
            if enhanced is None or enhanced.klass != code // 100:
                return cls(code, lines)
            return cls(code, (text,), enhanced)
        for line in lines:
            found, rest = EnhancedStatus.find(line)
            if found is not None and found.klass == code // 100:
                enhanced = enhanced or found
                texts.append(rest)
            else:
                texts.append(line)
        return cls(code, tuple(texts), enhanced)

    @classmethod
    def local(cls, code: int, enhanced: str, text: str) -> Self:
        """Build an answer of our own, for what happened without a server's word."""
        found, _ = EnhancedStatus.find(enhanced)
        return cls(code, (text,), found, is_local=True)

    @property
    def is_positive(self) -> bool:
        """2yz."""
        return self.code // 100 == 2

    @property
    def is_transient(self) -> bool:
        """4yz."""
        return self.code // 100 == 4

    @property
    def is_permanent(self) -> bool:
        """5yz."""
        return self.code // 100 == 5

    @property
    def text(self) -> str:
        """The lines in one, as people read it, without code and enhanced status."""
        return " ".join(line.strip() for line in self.lines if line.strip())

    def __str__(self) -> str:
        parts = [str(self.code)]
        if self.enhanced is not None:
            parts.append(str(self.enhanced))
        if self.text:
            parts.append(self.text)
        return " ".join(parts)

    def normalised(self) -> str:
        """The reply without what differs from message to message (addresses, ids, numbers)."""
        text = str(self)
        for pattern, word in _NOISE:
            text = pattern.sub(word, text)
        return text.strip()[:200]

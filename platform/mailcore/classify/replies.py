"""Read a server's reply: hard bounce, soft bounce or bounce, and of which class.

Gives    Reading, CompiledPatterns, compile_patterns, classify; SeedRule, load_seed
Takes    a reply and the patterns of a snapshot, compiled once per snapshot
Raises   PolicyRefused from the two that compile, naming the pattern; nothing from `classify`
Follows  reference/mta-model.md §7.3 (patterns of the ISP first, then those of all ISPs),
         RFC 3463 (enhanced status) where no pattern matches

A reply no pattern matches is read by its code, and carries the rule `unclassified`, so that it is
counted and an operator can write the missing pattern.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailcore.errors import PolicyRefused
from mailcore.outcome import BounceClass, BounceType
from mailcore.policy.model import BouncePattern
from mailcore.reply import EnhancedStatus, SmtpReply

UNCLASSIFIED_RULE = "unclassified"
MAX_TEXT = 1000
_MEMO_SIZE = 4096
_DELICATE = re.compile(r"(?<!\\)\(\?(?![:=!]|<[=!])|\\[xuUN0-9]|[A-Z]-[a-z]")
_LETTERS = re.compile(r"\\.|[^\W\d_]+", re.DOTALL)

_BY_SUBJECT_DETAIL: Mapping[tuple[int, int], BounceClass] = {
    (1, 0): BounceClass.INVALID_RECIPIENT,
    (1, 1): BounceClass.INVALID_RECIPIENT,
    (1, 2): BounceClass.BAD_DOMAIN,
    (1, 3): BounceClass.INVALID_RECIPIENT,
    (1, 4): BounceClass.INVALID_RECIPIENT,
    (1, 6): BounceClass.INVALID_RECIPIENT,
    (1, 10): BounceClass.BAD_DOMAIN,
    (2, 1): BounceClass.INACTIVE_MAILBOX,
    (2, 2): BounceClass.MAILBOX_FULL,
    (2, 3): BounceClass.MESSAGE_TOO_LARGE,
    (3, 4): BounceClass.MESSAGE_TOO_LARGE,
    (4, 1): BounceClass.CONNECTION,
    (4, 2): BounceClass.CONNECTION,
    (4, 3): BounceClass.DNS,
    (4, 4): BounceClass.DNS,
    (4, 7): BounceClass.EXPIRED,
    (7, 8): BounceClass.AUTHENTICATION,
    (7, 9): BounceClass.AUTHENTICATION,
    (7, 10): BounceClass.TLS,
    (7, 11): BounceClass.TLS,
    (7, 20): BounceClass.AUTHENTICATION,
    (7, 21): BounceClass.AUTHENTICATION,
    (7, 22): BounceClass.AUTHENTICATION,
    (7, 23): BounceClass.AUTHENTICATION,
    (7, 24): BounceClass.AUTHENTICATION,
    (7, 25): BounceClass.AUTHENTICATION,
    (7, 26): BounceClass.AUTHENTICATION,
    (7, 27): BounceClass.BAD_DOMAIN,
    (7, 28): BounceClass.RATE_LIMIT,
}
_BY_SUBJECT: Mapping[int, BounceClass] = {
    3: BounceClass.SYSTEM,
    4: BounceClass.CONNECTION,
    5: BounceClass.PROTOCOL,
    6: BounceClass.PROTOCOL,
    7: BounceClass.POLICY,
}
_BY_CODE: Mapping[int, BounceClass] = {
    421: BounceClass.CONNECTION,
    451: BounceClass.SYSTEM,
    454: BounceClass.TLS,
    500: BounceClass.PROTOCOL,
    501: BounceClass.PROTOCOL,
    502: BounceClass.PROTOCOL,
    503: BounceClass.PROTOCOL,
    504: BounceClass.PROTOCOL,
    521: BounceClass.BAD_DOMAIN,
    530: BounceClass.AUTHENTICATION,
    535: BounceClass.AUTHENTICATION,
    555: BounceClass.PROTOCOL,
    556: BounceClass.BAD_DOMAIN,
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply means. `rule` is the name of the pattern, `message` the operators' words."""

    type: BounceType
    bounce_class: BounceClass
    rule: str
    message: str = ""

    @property
    def is_matched(self) -> bool:
        """Whether a pattern said so, and not the code alone."""
        return self.rule != UNCLASSIFIED_RULE


@dataclass(frozen=True, slots=True)
class _Rule:
    search: re.Pattern[str]
    reading: Reading


@dataclass(frozen=True, slots=True)
class CompiledPatterns:
    """The patterns of one snapshot, ready to match. Holds a bounded memo of replies seen."""

    by_isp: Mapping[int, tuple[_Rule, ...]]
    for_all: tuple[_Rule, ...]
    memo: dict[tuple[int, str], Reading] = field(default_factory=dict, compare=False, repr=False)

    def first_match(self, text: str, *, isp_id: int) -> Reading | None:
        """Return the reading of the first pattern that hits, the ISP's before those of all."""
        for rules in (self.by_isp.get(isp_id, ()) if isp_id else (), self.for_all):
            for rule in rules:
                if rule.search.search(text) is not None:
                    return rule.reading
        return None


def compile_patterns(patterns: Iterable[BouncePattern]) -> CompiledPatterns:
    """Compile a snapshot's patterns in their order; a broken one is refused by its name."""
    by_isp: dict[int, list[_Rule]] = {}
    for pattern in sorted(patterns, key=lambda each: (each.position, each.id)):
        row = f"bounce pattern {pattern.id}"
        reading = Reading(pattern.type, pattern.bounce_class, pattern.name, pattern.message)
        rule = _Rule(_compiled(pattern.pattern, row=row), reading)
        by_isp.setdefault(pattern.isp_id, []).append(rule)
    for_all = tuple(by_isp.pop(0, ()))
    return CompiledPatterns({isp_id: tuple(rules) for isp_id, rules in by_isp.items()}, for_all)


def _compiled(pattern: str, *, row: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(_lowered(pattern), re.IGNORECASE if _is_delicate(pattern) else 0)
    except re.error as exc:
        reason = f"not a regular expression: {exc}"
        raise PolicyRefused(row=row, field="pattern", reason=reason) from exc
    if compiled.search("") is not None:
        raise PolicyRefused(row=row, field="pattern", reason="it matches every reply")
    return compiled


def _is_delicate(pattern: str) -> bool:
    """Whether lower case would change what a pattern says: groups with letters, codes of
    characters, ranges from upper to lower case."""
    return _DELICATE.search(pattern) is not None


def _lowered(pattern: str) -> str:
    """Return a pattern that matches, in text that is lower case, what it matched in any case.

    Matching case-insensitively costs three times as much.
    """
    if _is_delicate(pattern):
        return pattern
    return _LETTERS.sub(
        lambda found: found[0] if found[0][0] == "\\" else found[0].lower(), pattern
    )


def classify(reply: SmtpReply, *, isp_id: int, patterns: CompiledPatterns) -> Reading:
    """Return what a reply means: the first pattern that hits decides, else the code."""
    text = str(reply)[:MAX_TEXT].lower()
    key = (isp_id, text)
    reading = patterns.memo.get(key)
    if reading is None:
        reading = patterns.first_match(text, isp_id=isp_id) or read_by_code(reply)
        if len(patterns.memo) >= _MEMO_SIZE:
            patterns.memo.clear()
        patterns.memo[key] = reading
    return reading


def read_by_code(reply: SmtpReply) -> Reading:
    """Return the reading of a reply no pattern knows: a 5yz is a bounce, all else is soft."""
    bounce_type = BounceType.BOUNCE if reply.is_permanent else BounceType.SOFT
    return Reading(bounce_type, class_by_code(reply), UNCLASSIFIED_RULE)


def class_by_code(reply: SmtpReply) -> BounceClass:
    """Return the class that enhanced status or code name, `unclassified` where neither does."""
    found = class_by_status(reply.enhanced)
    return found or _BY_CODE.get(reply.code, BounceClass.UNCLASSIFIED)


def class_by_status(status: EnhancedStatus | None) -> BounceClass | None:
    """Return the class an enhanced status names (RFC 3463), or None where it names none."""
    if status is None:
        return None
    found = _BY_SUBJECT_DETAIL.get((status.subject, status.detail))
    return found or _BY_SUBJECT.get(status.subject)


# ── the rules we ship ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SeedRule:
    """One rule of `patterns.toml`, as an installation first gets it, with replies it must hit."""

    id: str
    name: str
    type: BounceType
    bounce_class: BounceClass
    pattern: str
    message: str
    samples: tuple[str, ...]

    def as_pattern(self, number: int) -> BouncePattern:
        """Return it as a pattern of all ISPs at place `number`."""
        return BouncePattern(
            id=number,
            name=self.name,
            isp_id=0,
            type=self.type,
            bounce_class=self.bounce_class,
            pattern=self.pattern,
            message=self.message,
            position=number,
        )


def load_seed(text: str) -> tuple[SeedRule, ...]:
    """Read the text of `patterns.toml`, or raise PolicyRefused naming the rule and the field."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise PolicyRefused(row="patterns.toml", field="file", reason=str(exc)) from exc
    rules = tuple(_seed_rule(row) for row in document.get("rule", ()))
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise PolicyRefused(row=f"rule {rule.id}", field="id", reason="it is used twice")
        seen.add(rule.id)
    return rules


def _seed_rule(row: Mapping[str, Any]) -> SeedRule:
    name = f"rule {row.get('id', '?')}"
    for key in ("id", "name", "type", "class", "pattern", "message", "samples"):
        if not row.get(key):
            raise PolicyRefused(row=name, field=key, reason="it is missing")
    try:
        bounce_type, bounce_class = BounceType(row["type"]), BounceClass(row["class"])
    except ValueError as exc:
        raise PolicyRefused(row=name, field="type or class", reason=str(exc)) from exc
    _compiled(row["pattern"], row=name)
    return SeedRule(
        id=row["id"],
        name=row["name"],
        type=bounce_type,
        bounce_class=bounce_class,
        pattern=row["pattern"],
        message=row["message"],
        samples=tuple(row["samples"]),
    )

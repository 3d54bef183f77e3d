"""The rows every installation has: they come with the product, may be edited, not deleted.

Gives    create_system_rows
Takes    patterns.toml of mailcore.classify, when the product ships it
Raises   PolicyRefused for a broken pattern file

Running it again adds what is missing and changes nothing that is there: operators' edits stay.
"""

from __future__ import annotations

from pathlib import Path

from control.access import Actor
from control.audit.changes import policy_change
from control.mta.choices import RetryMode, RetryType
from control.mta.models import BouncePattern, DefaultRule, Isp, RetryRule, Strategy
from control.rows import PolicyModel
from mailcore import classify
from mailcore.classify.replies import SeedRule, load_seed

PATTERNS = Path(classify.__file__).parent / "patterns.toml"
POSITION_STEP = 10  # leaves room for an operator's pattern between two of ours


def create_system_rows(*, actor: Actor) -> int:
    """Add the system rows that are missing; return how many."""
    with policy_change(actor) as change:
        rows = [*_missing_rules(), *_missing_patterns()]
        for row in rows:
            row.is_system = True
            row.save(force_insert=True)
            change.created(row)
        if not DefaultRule.objects.filter(is_system=True).exists():
            rows.append(_default_rule())
            change.created(rows[-1])
    return len(rows)


def _missing_rules() -> list[PolicyModel]:
    rows: list[PolicyModel] = []
    if not Strategy.objects.filter(is_system=True).exists():
        rows.append(Strategy(name="60:60"))
    if not RetryRule.objects.filter(is_system=True).exists():
        rows.append(
            RetryRule(
                name="standard",
                # A greylisting host must see the address it saw before.
                mode=RetryMode.SAME_IP,
                type=RetryType.GEOMETRIC,
                interval_s=600.0,
                exponent=1.5,
                retries=100,
            )
        )
    if not Isp.objects.filter(is_catch_all=True).exists():
        rows.append(Isp(name="all others", is_catch_all=True))
    return rows


def _default_rule() -> DefaultRule:
    standard = RetryRule.objects.filter(is_system=True).order_by("pk")[0]
    return DefaultRule.objects.create(name="standard", retry_rule=standard, is_system=True)


def _missing_patterns() -> list[PolicyModel]:
    there = set(
        BouncePattern.objects.filter(rule_id__isnull=False).values_list("rule_id", flat=True)
    )
    return [
        _pattern(number, rule)
        for number, rule in enumerate(shipped_rules(), start=1)
        if rule.id not in there
    ]


def shipped_rules() -> tuple[SeedRule, ...]:
    """Return the rules that come with this release."""
    return load_seed(PATTERNS.read_text(encoding="utf-8")) if PATTERNS.is_file() else ()


def _pattern(number: int, rule: SeedRule) -> BouncePattern:
    return BouncePattern(
        rule_id=rule.id,
        name=rule.name,
        type=rule.type.value,
        bounce_class=rule.bounce_class.value,
        pattern=rule.pattern,
        message=rule.message,
        position=number * POSITION_STEP,
    )

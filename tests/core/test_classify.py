"""What a reply means: the rules we ship, each by its samples, and the ways of operators' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailcore.classify.replies import (
    UNCLASSIFIED_RULE,
    CompiledPatterns,
    SeedRule,
    classify,
    compile_patterns,
    load_seed,
)
from mailcore.errors import PolicyRefused
from mailcore.outcome import BounceClass, BounceType
from mailcore.policy.model import BouncePattern
from mailcore.reply import SmtpReply

TOP = Path(__file__).resolve().parent.parent.parent
SEED_TEXT = (TOP / "platform/mailcore/classify/patterns.toml").read_text(encoding="utf-8")
SEED = load_seed(SEED_TEXT)
CORPUS = [
    line.split("\t")
    for line in (TOP / "tests/corpus/replies.tsv").read_text(encoding="utf-8").splitlines()[1:]
]


def reply_of(text: str) -> SmtpReply:
    code, _, rest = text.partition(" ")
    return SmtpReply.of(int(code), (rest,))


def pattern(number: int, text: str, *, isp_id: int = 0, position: int = 0) -> BouncePattern:
    return BouncePattern(
        id=number,
        name=f"rule {number}",
        isp_id=isp_id,
        type=BounceType.SOFT,
        bounce_class=BounceClass.POLICY,
        pattern=text,
        message="",
        position=position,
    )


@pytest.fixture(scope="module")
def shipped() -> CompiledPatterns:
    return compile_patterns(rule.as_pattern(number) for number, rule in enumerate(SEED, start=1))


# ── the rules we ship ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rule", SEED, ids=lambda rule: rule.id)
def test_a_rule_is_hit_by_each_of_its_samples_and_no_earlier_rule_takes_one(
    rule: SeedRule, shipped: CompiledPatterns
) -> None:
    assert rule.samples
    for sample in rule.samples:
        reading = classify(reply_of(sample), isp_id=0, patterns=shipped)
        assert reading.rule == rule.name, sample
        assert (reading.type, reading.bounce_class) == (rule.type, rule.bounce_class)
        assert reading.message


@pytest.mark.parametrize(("bounce_type", "bounce_class", "text"), CORPUS)
def test_the_corpus_is_read_as_expected(
    bounce_type: str, bounce_class: str, text: str, shipped: CompiledPatterns
) -> None:
    reading = classify(reply_of(text), isp_id=0, patterns=shipped)
    assert (reading.type.value, reading.bounce_class.value) == (bounce_type, bounce_class), (
        reading.rule
    )


def test_there_are_many_rules_of_distinct_names_for_every_class_a_server_can_give() -> None:
    assert len(SEED) >= 80
    assert len({rule.name for rule in SEED}) == len(SEED)
    ours = {BounceClass.NONE, BounceClass.EXPIRED, BounceClass.UNCLASSIFIED}
    assert {rule.bounce_class for rule in SEED} == set(BounceClass) - ours


def test_what_ends_a_message_is_never_read_into_a_4yz(shipped: CompiledPatterns) -> None:
    for rule in SEED:
        for sample in rule.samples:
            transient = SmtpReply(451, reply_of(sample).lines)
            reading = classify(transient, isp_id=0, patterns=shipped)
            assert reading.type is BounceType.SOFT, sample


# ── operators' own ────────────────────────────────────────────────────────────────────────────


def test_a_pattern_of_the_isp_comes_before_one_of_all() -> None:
    patterns = compile_patterns([pattern(1, "full"), pattern(2, "full", isp_id=7)])
    reply = SmtpReply.of(552, ("mailbox full",))
    assert classify(reply, isp_id=7, patterns=patterns).rule == "rule 2"
    assert classify(reply, isp_id=8, patterns=patterns).rule == "rule 1"
    assert classify(reply, isp_id=0, patterns=patterns).rule == "rule 1"


def test_the_lower_position_comes_first_and_then_the_lower_id() -> None:
    patterns = compile_patterns(
        [pattern(3, "full", position=5), pattern(2, "mailbox", position=5), pattern(9, "zzz")]
    )
    reply = SmtpReply.of(552, ("mailbox full",))
    assert classify(reply, isp_id=0, patterns=patterns).rule == "rule 2"


@pytest.mark.parametrize(
    ("expression", "text", "hits"),
    [
        ("Mailbox FULL", "MAILBOX full", True),
        (r"\SULL", "ull", False),
        (r"\SULL", "FULL", True),
        ("[A-Z]{4}x", "FULLX", True),
        ("[A-z]_x", "F_X", True),
        (r"\x46ULL", "full", True),
        ("(?P<What>Full)", "full", True),
        ("(?i:Full)", "fULL", True),
        (r"\(\?FULL", "(?full", True),
        ("(?<!not )FULL", "is full", True),
        ("(?<!not )FULL", "not full", False),
        ("Écrit", "écrit", True),
        ("^552 5\\.2\\.2 FULL$", "5.2.2 full", True),
    ],
)
def test_a_pattern_hits_in_any_case_and_keeps_its_meaning(
    expression: str, text: str, hits: bool
) -> None:
    patterns = compile_patterns([pattern(1, expression)])
    reading = classify(SmtpReply.of(552, (text,)), isp_id=0, patterns=patterns)
    assert reading.is_matched is hits


def test_a_pattern_spans_the_lines_of_a_reply() -> None:
    patterns = compile_patterns([pattern(1, "^550 5.1.1 the account .* does not exist$")])
    reply = SmtpReply.of(550, ("5.1.1 The account", "5.1.1 you named", "5.1.1 does not exist"))
    assert classify(reply, isp_id=0, patterns=patterns).is_matched


@pytest.mark.parametrize(
    ("expression", "reason"),
    [("(unclosed", "not a regular expression"), ("x*", "every reply"), ("", "every reply")],
)
def test_a_broken_pattern_is_refused_by_its_row_and_field(expression: str, reason: str) -> None:
    with pytest.raises(PolicyRefused, match=reason) as caught:
        compile_patterns([pattern(12, expression)])
    assert (caught.value.row, caught.value.field) == ("bounce pattern 12", "pattern")


def test_equal_replies_are_read_once_and_the_memory_of_them_is_bounded() -> None:
    patterns = compile_patterns([pattern(1, "full")])
    for number in range(5000):
        reply = SmtpReply.of(550, (f"reply {number}",))
        assert not classify(reply, isp_id=0, patterns=patterns).is_matched
    assert 0 < len(patterns.memo) <= 4096
    first = classify(SmtpReply.of(552, ("full",)), isp_id=0, patterns=patterns)
    assert classify(SmtpReply.of(552, ("full",)), isp_id=0, patterns=patterns) is first


# ── no pattern ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "text", "bounce_type", "bounce_class"),
    [
        (450, "hm", BounceType.SOFT, BounceClass.UNCLASSIFIED),
        (550, "hm", BounceType.BOUNCE, BounceClass.UNCLASSIFIED),
        (354, "hm", BounceType.SOFT, BounceClass.UNCLASSIFIED),
        (550, "5.1.1 hm", BounceType.BOUNCE, BounceClass.INVALID_RECIPIENT),
        (452, "4.2.2 hm", BounceType.SOFT, BounceClass.MAILBOX_FULL),
        (552, "5.3.4 hm", BounceType.BOUNCE, BounceClass.MESSAGE_TOO_LARGE),
        (550, "5.7.26 hm", BounceType.BOUNCE, BounceClass.AUTHENTICATION),
        (451, "4.4.99 hm", BounceType.SOFT, BounceClass.CONNECTION),
        (554, "5.0.0 hm", BounceType.BOUNCE, BounceClass.UNCLASSIFIED),
        (421, "hm", BounceType.SOFT, BounceClass.CONNECTION),
        (503, "hm", BounceType.BOUNCE, BounceClass.PROTOCOL),
        (556, "hm", BounceType.BOUNCE, BounceClass.BAD_DOMAIN),
    ],
)
def test_without_a_pattern_code_and_status_decide_and_it_counts_as_unclassified(
    code: int, text: str, bounce_type: BounceType, bounce_class: BounceClass
) -> None:
    reading = classify(SmtpReply.of(code, (text,)), isp_id=3, patterns=compile_patterns([]))
    assert (reading.type, reading.bounce_class) == (bounce_type, bounce_class)
    assert reading.rule == UNCLASSIFIED_RULE
    assert not reading.is_matched


# ── the seed's own form ───────────────────────────────────────────────────────────────────────

RULE = """
[[rule]]
id = "full"
name = "Mailbox full"
type = "soft"
class = "mailbox_full"
pattern = 'full'
message = "The mailbox is full"
samples = ["552 full"]
"""


def test_a_seed_rule_becomes_a_pattern_of_all_isps_at_its_place() -> None:
    [rule] = load_seed(RULE)
    made = rule.as_pattern(4)
    assert (made.id, made.position, made.isp_id, made.name) == (4, 4, 0, "Mailbox full")
    assert made.bounce_class is BounceClass.MAILBOX_FULL


@pytest.mark.parametrize(
    ("old", "new", "row", "field"),
    [
        ('"soft"', '"firm"', "rule full", "type or class"),
        ('"mailbox_full"', '"box"', "rule full", "type or class"),
        ("'full'", "'(full'", "rule full", "pattern"),
        ('samples = ["552 full"]', "samples = []", "rule full", "samples"),
        ('id = "full"', "", "rule ?", "id"),
        ("[[rule]]", "[[rule", "patterns.toml", "file"),
        (RULE, RULE + RULE, "rule full", "id"),
    ],
)
def test_a_seed_that_is_wrong_is_refused_by_rule_and_field(
    old: str, new: str, row: str, field: str
) -> None:
    assert old in RULE
    with pytest.raises(PolicyRefused) as caught:
        load_seed(RULE.replace(old, new))
    assert (caught.value.row, caught.value.field) == (row, field)

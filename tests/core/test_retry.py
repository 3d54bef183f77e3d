"""When a message is tried again: formulas, lifetime, and whose rule it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.policy.model import DefaultRule, Isp, PolicySnapshot, RetryRule, Sender
from mailcore.policy.words import DomainType, RetryMode, RetryType
from mailcore.shaping.retry import (
    BUILT_IN_RETRY,
    BUILT_IN_SCENARIO,
    MAX_DELAY_S,
    choose_scenario,
    has_retries_left,
    next_attempt_at,
    next_delay,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RULE = RetryRule(1, "five minutes", RetryMode.SAME_IP, 10, 300.0, RetryType.FIXED)

rules = st.builds(
    RetryRule,
    id=st.just(1),
    name=st.just("any"),
    mode=st.sampled_from(RetryMode),
    retries=st.integers(0, 1000),
    interval_s=st.floats(0, 1e6),
    type=st.sampled_from(RetryType),
    exponent=st.floats(0, 1e6),
    random_modifier=st.floats(0, 1e3),
)
draws = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("attempt", [1, 2, 9])
def test_a_fixed_delay_never_grows(attempt: int) -> None:
    assert next_delay(RULE, attempt=attempt, jitter=0.9) == 300.0


@pytest.mark.parametrize(("attempt", "delay"), [(1, 300.0), (2, 900.0), (3, 2700.0)])
def test_a_geometric_delay_grows_by_its_exponent(attempt: int, delay: float) -> None:
    rule = replace(RULE, type=RetryType.GEOMETRIC, exponent=3.0)
    assert next_delay(rule, attempt=attempt, jitter=0.9) == delay


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 300.0), (0.5, 375.0), (0.999999, 450.0)])
def test_a_random_delay_lies_between_the_interval_and_its_modified_one(
    jitter: float, delay: float
) -> None:
    rule = replace(RULE, type=RetryType.RANDOM, random_modifier=0.5)
    assert next_delay(rule, attempt=7, jitter=jitter) == pytest.approx(delay, rel=1e-5)


@given(rule=rules, attempt=st.integers(1, 10_000), jitter=draws)
def test_no_delay_is_negative_or_longer_than_a_day(
    rule: RetryRule, attempt: int, jitter: float
) -> None:
    assert 0 <= next_delay(rule, attempt=attempt, jitter=jitter) <= MAX_DELAY_S


@given(rule=rules, attempt=st.integers(1, 1000))
def test_a_geometric_delay_never_shrinks_from_attempt_to_attempt(
    rule: RetryRule, attempt: int
) -> None:
    rule = replace(rule, type=RetryType.GEOMETRIC)
    earlier = next_delay(rule, attempt=attempt, jitter=0.0)
    assert earlier <= next_delay(rule, attempt=attempt + 1, jitter=0.0)


@given(
    rule=rules,
    attempt=st.integers(1, 1000),
    left_s=st.floats(-1e6, 1e7),
    jitter=draws,
)
def test_a_retry_never_passes_the_lifetime_and_never_lies_in_the_past(
    rule: RetryRule, attempt: int, left_s: float, jitter: float
) -> None:
    expires_at = NOW + timedelta(seconds=left_s)
    due_at = next_attempt_at(rule, attempt=attempt, now=NOW, expires_at=expires_at, jitter=jitter)
    assert due_at is None or NOW <= due_at < expires_at


def test_a_retry_at_the_very_end_of_the_lifetime_is_none() -> None:
    end = NOW + timedelta(seconds=300)
    assert next_attempt_at(RULE, attempt=1, now=NOW, expires_at=end, jitter=0.0) is None


def test_as_many_retries_follow_the_first_attempt_as_the_rule_says() -> None:
    rule = replace(RULE, retries=2)
    left = [has_retries_left(rule, attempt=attempt) for attempt in (1, 2, 3)]
    assert left == [True, True, False]
    assert not has_retries_left(replace(RULE, retries=0), attempt=1)


# ── whose rule ────────────────────────────────────────────────────────────────────────────────


def scenario(number: int, *, isp_id: int = 0, priority: int = 0, retry: int = 0) -> DefaultRule:
    return DefaultRule(number, f"scenario {number}", isp_id, priority, retry)


def snapshot(
    *scenarios: DefaultRule, own: int = 0, isp_retry: int = 0, retries: tuple[int, ...] = ()
) -> PolicySnapshot:
    return PolicySnapshot(
        revision=1,
        senders={5: Sender(5, "s", (1,), 1, 1, own, DomainType.FROM_HEADER)},
        isps={7: Isp(7, "big", (), retry_rule_id=isp_retry)},
        retry_rules={number: replace(RULE, id=number) for number in retries},
        default_rules={each.id: each for each in scenarios},
    )


def test_without_any_rule_the_built_in_one_holds() -> None:
    found = choose_scenario(snapshot(), sender_id=99, isp_id=99)
    assert found.rule is BUILT_IN_SCENARIO
    assert found.retry is BUILT_IN_RETRY


def test_the_senders_own_rule_comes_before_all_others() -> None:
    policy = snapshot(scenario(1), scenario(2, isp_id=7), scenario(3), own=3)
    assert choose_scenario(policy, sender_id=5, isp_id=7).rule.id == 3


def test_the_senders_own_rule_for_another_isp_is_passed_over() -> None:
    policy = snapshot(scenario(1), scenario(3, isp_id=8), own=3)
    assert choose_scenario(policy, sender_id=5, isp_id=7).rule.id == 1


def test_a_rule_of_the_isp_comes_before_one_of_all_and_then_the_lower_priority() -> None:
    policy = snapshot(
        scenario(1, priority=1),
        scenario(2, isp_id=7, priority=9),
        scenario(3, isp_id=7, priority=4),
    )
    assert choose_scenario(policy, sender_id=5, isp_id=7).rule.id == 3
    assert choose_scenario(policy, sender_id=5, isp_id=8).rule.id == 1


def test_a_rule_for_all_leaves_the_times_to_the_isps_retry_rule() -> None:
    policy = snapshot(scenario(1, retry=10), isp_retry=11, retries=(10, 11))
    assert choose_scenario(policy, sender_id=5, isp_id=7).retry.id == 11
    assert choose_scenario(policy, sender_id=5, isp_id=8).retry.id == 10


def test_a_rule_of_the_isp_keeps_its_own_times() -> None:
    policy = snapshot(scenario(1, isp_id=7, retry=10), isp_retry=11, retries=(10, 11))
    assert choose_scenario(policy, sender_id=5, isp_id=7).retry.id == 10

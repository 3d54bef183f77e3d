"""The end of trying, outcomes that stay unknown, rows that end or wait without an attempt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from mailcore.disposition import (
    Disposition,
    plan,
    plan_expired,
    plan_purged,
    plan_restored,
    plan_stopped,
    plan_unknown_due,
    plan_unroutable,
    write_rulebook,
)
from mailcore.errors import PolicyRefused
from mailcore.events import EventKind, decode_lines
from mailcore.outcome import (
    BounceClass,
    BounceType,
    RowState,
    Scope,
    Verdict,
    WaitReason,
)
from mailcore.policy.model import BouncePattern
from mailcore.policy.words import RetryMode, UnknownAction
from mailcore.reply import SmtpReply
from tests.core.delivery import (
    NOW,
    RETRY,
    ROW,
    RULE,
    RULES,
    decide,
    local,
    only_event,
    outcome,
    policy,
)

# ── the end of trying ─────────────────────────────────────────────────────────────────────────


def test_after_the_last_retry_the_row_bounces_with_the_class_of_its_last_reply() -> None:
    full = outcome(452, "4.2.2 mailbox full")
    only_event(decide(full, row=replace(ROW, attempt=2)), EventKind.DEFERRED)
    event = only_event(decide(full, row=replace(ROW, attempt=3)), EventKind.BOUNCED)
    assert (event.rule, event.bounce_class, event.attempt) == ("max_attempts", "mailbox_full", 4)


def test_a_row_that_would_outlive_its_lifetime_expires_at_once() -> None:
    short = replace(ROW, expires_at=NOW + timedelta(seconds=300))
    event = only_event(decide(outcome(450, "4.2.0 hm"), row=short), EventKind.EXPIRED)
    assert event.rule == "lifetime"
    assert event.reply == "450 4.2.0 hm"


@pytest.mark.parametrize(
    ("mode", "pinned"),
    [
        (RetryMode.SAME_IP, 31),
        (RetryMode.OTHER_IP_SAME_NODE, 32),
        (RetryMode.OTHER_IP_ANY_NODE, 32),
    ],
)
def test_the_retry_rule_says_from_where(mode: RetryMode, pinned: int) -> None:
    rules = write_rulebook(policy(retry=replace(RETRY, mode=mode)))
    found = decide(outcome(450, "hm"), rules=rules)
    assert found.defer[0].pinned_source_id == pinned


def test_a_sender_that_is_gone_pins_nothing_and_is_retried_by_the_rule_for_all() -> None:
    found = decide(outcome(450, "hm"), row=replace(ROW, sender_id=404, isp_id=404))
    event = only_event(found, EventKind.DEFERRED)
    assert found.defer[0].pinned_source_id is None
    assert (event.pool_id, event.isp) == (0, "")


# ── outcome unknown ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verdict", "after_dot"), [(Verdict.UNKNOWN, True), (Verdict.DEFERRED, True)]
)
def test_a_session_lost_after_the_final_dot_leaves_the_outcome_unknown(
    verdict: Verdict, after_dot: bool
) -> None:
    lost = replace(
        local(421, "4.4.2", verdict=verdict, stage="dot", scope=Scope.MESSAGE), after_dot=after_dot
    )
    found = decide(lost)
    event = only_event(found, EventKind.UNKNOWN)
    [defer] = found.defer
    assert (defer.state, defer.reason) == (RowState.UNKNOWN, WaitReason.UNKNOWN_OUTCOME)
    assert (defer.delay_s, defer.counts_attempt) == (3600.0, True)
    assert event.next_due_ms == round(NOW.timestamp() * 1000) + 3_600_000


def test_a_servers_answer_to_the_dot_is_never_unknown() -> None:
    answered = replace(outcome(451, "4.3.0 hm", stage="dot"), after_dot=True)
    only_event(decide(answered), EventKind.DEFERRED)


@pytest.mark.parametrize(
    ("action", "state", "delay_s"),
    [
        (UnknownAction.RETRY_LATE, RowState.WAITING, 0.0),
        (UnknownAction.HOLD, RowState.UNKNOWN, 86_400.0),
    ],
)
def test_an_unknown_row_that_is_due_is_retried_or_held_as_its_rule_says(
    action: UnknownAction, state: RowState, delay_s: float
) -> None:
    rules = write_rulebook(policy(replace(RULE, unknown_action=action)))
    found = plan_unknown_due([ROW], rules=rules, node="n1", now=NOW)
    [defer] = found.defer
    assert (defer.state, defer.delay_s, defer.counts_attempt) == (state, delay_s, False)
    assert (found.finish, found.events) == ((), ())


def test_an_unknown_row_whose_rule_gives_up_bounces() -> None:
    rules = write_rulebook(policy(replace(RULE, unknown_action=UnknownAction.GIVE_UP)))
    found = plan_unknown_due([ROW], rules=rules, node="n1", now=NOW)
    event = only_event(found, EventKind.BOUNCED)
    assert (event.rule, event.bounce_type, event.attempt) == ("unknown_give_up", "bounce", 0)


# ── without an attempt ────────────────────────────────────────────────────────────────────────

REASON = SmtpReply.local(550, "5.7.1", "said so")


def endings() -> Iterable[tuple[Disposition, EventKind, str]]:
    ported = {"rules": RULES, "node": "n1", "now": NOW}
    yield plan_expired([ROW], **ported), EventKind.EXPIRED, "expired"  # type: ignore[arg-type]
    yield plan_stopped([ROW], reply=REASON, **ported), EventKind.STOPPED, ""  # type: ignore[arg-type]
    yield plan_purged([ROW], reply=REASON, **ported), EventKind.PURGED, ""  # type: ignore[arg-type]


def test_rows_that_expire_or_are_stopped_or_purged_end_with_their_event() -> None:
    for found, kind, bounce_class in endings():
        event = only_event(found, kind)
        assert (event.bounce_class, event.attempt, event.claim_no) == (bounce_class, 0, 4)
        assert event.reply


def test_what_an_operator_expires_says_so_and_not_what_it_waited_for() -> None:
    row = replace(ROW, last_reply="451 later")
    found = plan_expired([row], reply=REASON, rules=RULES, node="n1", now=NOW)
    event = only_event(found, EventKind.EXPIRED)
    assert (event.bounce_class, event.reply) == ("expired", str(REASON))


def test_a_restored_row_is_accepted_under_its_next_claim_number_and_ends_nothing() -> None:
    row = replace(ROW, claim_no=ROW.claim_no + 1)
    found = plan_restored([row], reply=REASON, rules=RULES, node="n1", now=NOW)
    [event] = found.events
    assert (event.kind, event.claim_no, event.rule) == ("accepted", 5, "undo")
    assert (event.accepted_ms, event.occurred_ms) == (
        round(ROW.accepted_at.timestamp() * 1000),
        round(NOW.timestamp() * 1000),
    )
    assert (found.finish, found.defer) == ((), ())


@pytest.mark.parametrize(
    ("code", "status", "bounce_type"), [(556, "5.1.10", "hard"), (550, "5.4.0", "bounce")]
)
def test_rows_of_a_domain_that_takes_no_mail_bounce(
    code: int, status: str, bounce_type: str
) -> None:
    reply = SmtpReply.local(code, status, "no mail here")
    found = plan_unroutable([ROW], reply=reply, rules=RULES, node="n1", now=NOW)
    event = only_event(found, EventKind.BOUNCED)
    assert (event.bounce_type, event.stage, event.rule) == (bounce_type, "dns", "local")


# ── the batch ─────────────────────────────────────────────────────────────────────────────────


def test_a_batch_settles_in_one_transaction_with_all_its_events() -> None:
    rows = {number: replace(ROW, id=number, recipient_no=number) for number in range(4)}
    batch = [
        outcome(verdict=Verdict.DELIVERED, stage="dot", row_id=0),
        outcome(450, "4.2.0 hm", row_id=1),
        outcome(550, "no such user", row_id=2),
        outcome(450, "4.2.0 hm", row_id=3),
    ]
    found = plan(batch, rows, rules=RULES, node="n1", now=NOW, draw=lambda: 0.5)
    settlement = found.settlement()
    assert [each.row_id for each in settlement.finish] == [0, 2]
    assert [each.row_id for each in settlement.defer] == [1, 3]
    assert settlement.event_count == 4
    assert tuple(decode_lines(settlement.events)) == found.events
    assert len({event.event_id for event in found.events}) == 4


def test_a_batch_of_nothing_settles_nothing() -> None:
    settlement = decide().settlement()
    assert (settlement.events, settlement.event_count) == (b"", 0)


def test_a_long_reply_is_cut() -> None:
    found = decide(outcome(450, "x" * 2000))
    event = only_event(found, EventKind.DEFERRED)
    assert len(event.reply) == len(found.defer[0].reply) == 500


def test_a_snapshot_with_a_broken_pattern_makes_no_rulebook() -> None:
    broken = BouncePattern(3, "b", 0, BounceType.SOFT, BounceClass.POLICY, "(", "", 0)
    with pytest.raises(PolicyRefused, match="bounce pattern 3"):
        write_rulebook(replace(policy(), bounce_patterns=(broken,)))


def test_what_expires_says_what_it_waited_for() -> None:
    row = replace(ROW, last_reply="451 4.7.1 come back later")
    ended = plan_expired([row, ROW], rules=RULES, node="n1", now=NOW)
    texts = [event.reply for event in ended.events]
    assert texts[0].endswith("lifetime is over; last: 451 4.7.1 come back later")
    assert texts[1].endswith("lifetime is over")

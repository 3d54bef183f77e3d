"""What an attempt comes to: who is finished, who waits, until when, and what the events tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailcore.disposition import (
    write_rulebook,
)
from mailcore.events import Event, EventKind, event_id, recipient_hash
from mailcore.outcome import (
    BounceClass,
    BounceType,
    RowState,
    Scope,
    Verdict,
    WaitReason,
)
from mailcore.policy.words import RuleAction
from tests.core.delivery import (
    MESSAGE,
    NOW,
    ROW,
    RULE,
    decide,
    local,
    only_event,
    outcome,
    policy,
)

# ── delivered ─────────────────────────────────────────────────────────────────────────────────


def test_a_delivered_row_ends_and_its_event_tells_everything_that_is_known() -> None:
    done = outcome(250, "2.0.0 Ok: queued as 77", verdict=Verdict.DELIVERED, stage="dot")
    event = only_event(decide(done), EventKind.DELIVERED)
    now_ms = round(NOW.timestamp() * 1000)
    assert event == Event(
        event_id=event_id(message_id=MESSAGE, recipient_no=2, claim_no=4, kind=EventKind.DELIVERED),
        kind="delivered",
        occurred_ms=now_ms,
        message_id=str(MESSAGE),
        recipient_no=2,
        claim_no=4,
        account_id=11,
        campaign_id=13,
        campaign="spring",
        sender_id=5,
        node="n1",
        source_id=31,
        source_ip="192.0.2.1",
        pool_id=6,
        isp_id=7,
        isp="Example Mail",
        site="mx.example.com",
        mx_host="mx.example.com",
        mx_address="192.0.2.80",
        mail_class="main",
        recipient="Anna@example.com",
        recipient_domain="example.com",
        recipient_hash=recipient_hash("anna@example.com"),
        header_from="shop.test",
        message_id_header="<m1@shop.test>",
        accepted_ms=now_ms - 10_000,
        attempt=1,
        stage="dot",
        code=250,
        enhanced="2.0.0",
        reply="250 2.0.0 Ok: queued as 77",
        tls_version="TLSv1.3",
        tls_cipher="TLS_AES_256_GCM_SHA384",
        size_bytes=30_000,
        queue_ms=9_960,
        dialogue_ms=40,
        policy_revision=9,
        custom='{"order":"7"}',
    )


def test_delivered_is_final_whatever_claim_it_came_from_and_whatever_the_rules_say() -> None:
    rules = write_rulebook(policy(replace(RULE, soft_action=RuleAction.STOP)))
    done = replace(outcome(verdict=Verdict.DELIVERED, stage="dot"), claim_no=2)
    event = only_event(decide(done, rules=rules), EventKind.DELIVERED)
    assert event.claim_no == 2


def test_an_outcome_that_names_its_time_and_source_is_believed() -> None:
    occurred_ms = round(NOW.timestamp() * 1000) - 2000
    done = replace(
        outcome(verdict=Verdict.DELIVERED, stage="dot"), occurred_ms=occurred_ms, source_id=77
    )
    event = only_event(decide(done), EventKind.DELIVERED)
    assert (event.occurred_ms, event.source_id, event.queue_ms) == (occurred_ms, 77, 7_960)


def test_an_outcome_without_its_row_is_handed_back_undecided() -> None:
    stray = outcome(verdict=Verdict.DELIVERED, row_id=404)
    found = decide(stray)
    assert found.strays == (stray,)
    assert (found.finish, found.defer, found.events) == ((), (), ())


# ── replies about the recipient ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
def test_a_4yz_defers_for_as_long_as_the_retry_rule_says(stage: str) -> None:
    found = decide(outcome(450, "4.2.0 hm", stage=stage))
    event = only_event(found, EventKind.DEFERRED)
    [defer] = found.defer
    assert (defer.delay_s, defer.reason, defer.claim_no) == (300.0, WaitReason.RETRY, 4)
    assert (defer.counts_attempt, defer.state) == (True, RowState.WAITING)
    assert defer.reply == "450 4.2.0 hm"
    assert event.next_due_ms == round(NOW.timestamp() * 1000) + 300_000
    assert (event.bounce_type, event.bounce_class, event.rule) == (
        "soft",
        "unclassified",
        "unclassified",
    )
    assert (event.attempt, event.scope, event.reply_normal) == (1, "recipient", "450 4.2.0 hm")


@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
@pytest.mark.parametrize("verdict", [Verdict.BOUNCED, Verdict.DEFERRED])
def test_a_5yz_bounces_where_no_pattern_says_otherwise(stage: str, verdict: Verdict) -> None:
    event = only_event(
        decide(outcome(554, "5.7.1 hm", stage=stage, verdict=verdict)), EventKind.BOUNCED
    )
    assert (event.bounce_type, event.bounce_class) == ("bounce", "policy")
    assert event.rule == "unclassified"
    assert event.next_due_ms == 0


def test_a_soft_pattern_makes_a_5yz_wait() -> None:
    found = decide(outcome(552, "5.2.2 mailbox full", verdict=Verdict.BOUNCED))
    event = only_event(found, EventKind.DEFERRED)
    assert (event.bounce_type, event.bounce_class, event.rule) == ("soft", "mailbox_full", "full")


def test_a_hard_pattern_makes_a_4yz_bounce() -> None:
    event = only_event(decide(outcome(450, "4.1.1 no such user")), EventKind.BOUNCED)
    assert (event.bounce_type, event.rule) == ("hard", "gone")


def test_552_at_rcpt_without_a_pattern_is_read_as_452() -> None:
    only_event(decide(outcome(552, "hm", verdict=Verdict.BOUNCED)), EventKind.DEFERRED)
    only_event(decide(outcome(552, "too large", verdict=Verdict.BOUNCED)), EventKind.BOUNCED)
    only_event(decide(outcome(552, "hm", stage="dot", verdict=Verdict.BOUNCED)), EventKind.BOUNCED)


def test_what_nobody_foresaw_defers() -> None:
    only_event(decide(outcome(354, "go ahead", stage="dot")), EventKind.DEFERRED)


@pytest.mark.parametrize(
    ("text", "field"),
    [("mailbox full", "soft_action"), ("no such user", "hard_action"), ("spam", "bounce_action")],
)
def test_the_default_rule_says_of_each_type_whether_it_is_retried(text: str, field: str) -> None:
    reply = outcome(550, text, verdict=Verdict.BOUNCED)
    for action, kind in (
        (RuleAction.STOP, EventKind.BOUNCED),
        (RuleAction.RETRY, EventKind.DEFERRED),
    ):
        made = write_rulebook(policy(replace(RULE, **{field: action})))  # type: ignore[arg-type]
        only_event(decide(reply, rules=made), kind)


def test_a_recipient_accepted_before_the_421_of_another_one_never_bounces() -> None:
    reply = outcome(421, "4.7.0 no such user, closing", scope=Scope.SESSION)
    event = only_event(decide(reply), EventKind.DEFERRED)
    assert (event.bounce_type, event.scope) == ("soft", "session")


# ── replies about us ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", ["connect", "banner", "ehlo", "starttls", "auth", "mail"])
@pytest.mark.parametrize("text", ["no such user", "spam", "hm"])
def test_a_5yz_before_rcpt_bounces_nobody(stage: str, text: str) -> None:
    rules = write_rulebook(policy(replace(RULE, soft_action=RuleAction.STOP)))
    reply = outcome(554, text, stage=stage, scope=Scope.SOURCE, verdict=Verdict.BOUNCED)
    event = only_event(decide(reply, rules=rules), EventKind.DEFERRED)
    assert (event.bounce_type, event.stage, event.scope) == ("soft", stage, "source")


def test_a_message_too_large_may_be_refused_at_mail() -> None:
    reply = outcome(552, "5.3.4 hm", stage="mail", scope=Scope.HOST, verdict=Verdict.BOUNCED)
    event = only_event(decide(reply), EventKind.BOUNCED)
    assert event.bounce_class == "message_too_large"


def test_failures_that_are_not_the_recipients_use_up_no_retries() -> None:
    late = replace(ROW, attempt=50)
    only_event(decide(local(421, "4.4.1"), row=late), EventKind.DEFERRED)
    only_event(decide(outcome(450, "hm"), row=late), EventKind.BOUNCED)


@pytest.mark.parametrize(
    ("stage", "status", "bounce_class", "reason"),
    [
        ("connect", "4.4.1", BounceClass.CONNECTION, WaitReason.RETRY),
        ("connect", "4.0.0", BounceClass.CONNECTION, WaitReason.RETRY),
        ("dns", "4.4.3", BounceClass.DNS, WaitReason.DNS),
        ("starttls", "4.7.5", BounceClass.TLS, WaitReason.RETRY),
        ("auth", "4.7.8", BounceClass.AUTHENTICATION, WaitReason.RETRY),
        ("spool", "4.3.0", BounceClass.SYSTEM, WaitReason.NO_CONTENT),
    ],
)
def test_our_own_answers_defer_with_the_class_and_reason_of_their_stage(
    stage: str, status: str, bounce_class: BounceClass, reason: WaitReason
) -> None:
    found = decide(local(451, status, stage=stage))
    event = only_event(found, EventKind.DEFERRED)
    assert (event.bounce_class, event.rule) == (bounce_class.value, "local")
    assert found.defer[0].reason is reason
    assert event.source_id == 0


@pytest.mark.parametrize(
    ("code", "status", "bounce_type", "bounce_class"),
    [
        (550, "5.1.2", BounceType.HARD, BounceClass.BAD_DOMAIN),
        (556, "5.1.10", BounceType.HARD, BounceClass.BAD_DOMAIN),
        (552, "5.3.4", BounceType.BOUNCE, BounceClass.MESSAGE_TOO_LARGE),
        (553, "5.6.7", BounceType.BOUNCE, BounceClass.PROTOCOL),
    ],
)
def test_our_own_verdict_on_the_message_bounces_whatever_the_rules_say(
    code: int, status: str, bounce_type: BounceType, bounce_class: BounceClass
) -> None:
    rules = write_rulebook(
        policy(replace(RULE, hard_action=RuleAction.RETRY, bounce_action=RuleAction.RETRY))
    )
    ours = local(code, status, verdict=Verdict.BOUNCED, stage="mail", scope=Scope.MESSAGE)
    event = only_event(decide(ours, rules=rules), EventKind.BOUNCED)
    assert (event.bounce_type, event.bounce_class) == (bounce_type.value, bounce_class.value)


def test_a_5yz_of_ours_without_a_verdict_defers() -> None:
    only_event(decide(local(554, "5.7.5", stage="starttls")), EventKind.DEFERRED)

"""What follows an attempt: who is finished, who waits, until when, and what the events tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from mailcore.address import ForwardPath, ReversePath
from mailcore.disposition import (
    Disposition,
    Rulebook,
    give_back,
    plan,
    plan_expired,
    plan_purged,
    plan_reclaimed,
    plan_stopped,
    plan_unknown_due,
    plan_unroutable,
    write_rulebook,
)
from mailcore.envelope import ContentRef, QueuedRow
from mailcore.errors import PolicyRefused
from mailcore.events import Event, EventKind, decode_lines, event_id, recipient_hash
from mailcore.outcome import (
    BounceClass,
    BounceType,
    MailClass,
    Outcome,
    RowState,
    Scope,
    SessionInfo,
    TlsNeed,
    Verdict,
    WaitReason,
)
from mailcore.policy.model import (
    BouncePattern,
    DefaultRule,
    DomainType,
    Isp,
    PolicySnapshot,
    Pool,
    PoolMember,
    RetryMode,
    RetryRule,
    RetryType,
    RuleAction,
    Sender,
    Source,
    UnknownAction,
)
from mailcore.reply import SmtpReply

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MESSAGE = UUID("01950000-0000-7000-8000-000000000001")
SESSION = SessionInfo(
    mx_host="mx.example.com",
    mx_address="192.0.2.80",
    source_address="192.0.2.1",
    ehlo_name="a.shop.test",
    tls_version="TLSv1.3",
    tls_cipher="TLS_AES_256_GCM_SHA384",
)
ROW = QueuedRow(
    id=1,
    lane_id=3,
    state=RowState.LEASED,
    message_id=MESSAGE,
    recipient_no=2,
    recipient=ForwardPath("Anna", "example.com"),
    reverse_path=ReversePath("bounce", "shop.test"),
    content=ContentRef(10, 20, 30_000, 40),
    header_from="shop.test",
    message_id_header="<m1@shop.test>",
    account_id=11,
    sender_id=5,
    campaign_id=13,
    campaign="spring",
    mail_class=MailClass.MAIN,
    tls_need=TlsNeed.POLICY,
    site="mx.example.com",
    isp_id=7,
    accepted_at=NOW - timedelta(seconds=10),
    due_at=NOW,
    expires_at=NOW + timedelta(days=1),
    attempt=0,
    claim_no=4,
    pinned_source_id=None,
    custom='{"order":"7"}',
)
RETRY = RetryRule(21, "five minutes", RetryMode.SAME_IP, 3, 300.0, RetryType.FIXED)
RULE = DefaultRule(22, "all", 0, 0, 21, unknown_after_s=3600.0)
PATTERNS = (
    ("full", BounceType.SOFT, BounceClass.MAILBOX_FULL, "mailbox full"),
    ("gone", BounceType.HARD, BounceClass.INVALID_RECIPIENT, "no such user"),
    ("spam", BounceType.BOUNCE, BounceClass.SPAM_CONTENT, "spam"),
    ("size", BounceType.BOUNCE, BounceClass.MESSAGE_TOO_LARGE, "too large"),
)


def policy(rule: DefaultRule = RULE, retry: RetryRule = RETRY) -> PolicySnapshot:
    patterns = tuple(
        BouncePattern(number, name, 0, kind, bounce_class, text, "", number)
        for number, (name, kind, bounce_class, text) in enumerate(PATTERNS)
    )
    return PolicySnapshot(
        revision=9,
        senders={5: Sender(5, "s", (11,), 6, 0, rule.id, DomainType.FROM_HEADER)},
        pools={6: Pool(6, "p", (PoolMember(31, 1), PoolMember(32, 1)))},
        sources={
            31: Source(31, "n1", "192.0.2.1", "a.shop.test"),
            32: Source(32, "n1", "192.0.2.2", "b.shop.test"),
        },
        isps={7: Isp(7, "Example Mail", ("example.com",))},
        retry_rules={retry.id: retry},
        default_rules={rule.id: rule},
        bounce_patterns=patterns,
    )


RULES = write_rulebook(policy())


def outcome(
    code: int = 250,
    text: str = "2.0.0 ok",
    *,
    verdict: Verdict = Verdict.DEFERRED,
    scope: Scope = Scope.RECIPIENT,
    stage: str = "rcpt",
    row_id: int = 1,
) -> Outcome:
    reply = SmtpReply.of(code, (text,))
    return Outcome(row_id, 4, verdict, scope, reply, stage, SESSION, dialogue_ms=40)


def local(
    code: int,
    status: str,
    *,
    verdict: Verdict = Verdict.DEFERRED,
    stage: str = "connect",
    scope: Scope = Scope.HOST,
) -> Outcome:
    reply = SmtpReply.local(code, status, "our own words")
    return Outcome(1, 4, verdict, scope, reply, stage)


def decide(*outcomes: Outcome, row: QueuedRow = ROW, rules: Rulebook = RULES) -> Disposition:
    rows = {row.id: row}
    return plan(outcomes, rows, rules=rules, node="n1", now=NOW, draw=lambda: 0.5)


def only_event(found: Disposition, kind: EventKind) -> Event:
    [event] = found.events
    assert event.kind == kind.value
    if kind.is_final:
        assert [each.row_id for each in found.finish] == [1]
        assert found.defer == ()
    else:
        assert found.finish == ()
        assert [each.row_id for each in found.defer] == [1]
    return event


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


def test_of_a_dead_process_exactly_the_rows_with_a_dot_are_unknown() -> None:
    rows = [replace(ROW, id=number, pinned_source_id=number) for number in (1, 2, 3)]
    found = plan_reclaimed(rows, dotted={(2, 4), (3, 3)}, rules=RULES, node="n1", now=NOW)
    states = {each.row_id: (each.state, each.reason, each.counts_attempt) for each in found.defer}
    due = (RowState.WAITING, WaitReason.RECLAIMED, False)
    assert states == {
        1: due,
        2: (RowState.UNKNOWN, WaitReason.UNKNOWN_OUTCOME, True),
        3: due,
    }
    assert [event.kind for event in found.events] == ["unknown"]


def test_what_is_given_back_counts_no_attempt_and_keeps_its_pin() -> None:
    [defer] = give_back(
        [replace(ROW, pinned_source_id=31)], reason=WaitReason.RETURNED, delay_s=2.0
    )
    assert (defer.counts_attempt, defer.pinned_source_id, defer.delay_s) == (False, 31, 2.0)


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

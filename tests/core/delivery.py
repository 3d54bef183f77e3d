"""A small world for decisions: one row, one sender with two sources, four patterns, one rule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from mailcore.address import ForwardPath, ReversePath
from mailcore.disposition import (
    Disposition,
    Rulebook,
    plan,
    write_rulebook,
)
from mailcore.envelope import ContentRef, QueuedRow
from mailcore.events import Event, EventKind
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
)
from mailcore.policy.model import (
    BouncePattern,
    DefaultRule,
    Isp,
    PolicySnapshot,
    Pool,
    PoolMember,
    RetryRule,
    Sender,
    Source,
)
from mailcore.policy.words import DomainType, RetryMode, RetryType
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

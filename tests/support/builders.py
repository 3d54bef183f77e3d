"""Builders of the values the engines are tested with: a small policy, a row of the queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mailcore.address import ForwardPath, ReversePath
from mailcore.envelope import ContentRef, QueuedRow, uuid7
from mailcore.outcome import MailClass, RowState, TlsNeed
from mailcore.policy.model import (
    Account,
    BouncePattern,
    DefaultRule,
    Isp,
    Node,
    PolicySnapshot,
    Pool,
    PoolMember,
    RetryRule,
    Sender,
    SendingDomain,
    Source,
    Strategy,
)
from mailcore.policy.words import RetryMode, RetryType
from mailcore.reply import SmtpReply

NODE = "n1"
SITE = "mx.peer.test"
DOMAIN = "peer.test"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
UNLIMITED = Strategy(1, "unlimited", 0, 0, 0, 0.0)
OK = SmtpReply.of(250, ("2.0.0 queued",))


def policy(
    *, strategy: Strategy = UNLIMITED, patterns: tuple[BouncePattern, ...] = (), sources: int = 1
) -> PolicySnapshot:
    """A small policy: one account, one sender, a pool of `sources` equal sources."""
    retry = RetryRule(1, "quick", RetryMode.OTHER_IP_ANY_NODE, 3, 60.0, RetryType.FIXED)
    return PolicySnapshot(
        revision=7,
        accounts={1: Account(1, "acme", True, 1, 3600.0, 1 << 20, 100)},
        senders={1: Sender(1, "bulk", (1,), 1, 1, 1, return_path_domain="bounce.sender.test")},
        sending_domains={"sender.test": SendingDomain(1, "sender.test", (1,), "")},
        pools={1: Pool(1, "pool", tuple(PoolMember(n, 1) for n in range(1, sources + 1)))},
        sources={
            n: Source(n, NODE, f"127.0.100.{n}", f"out{n}.sender.test")
            for n in range(1, sources + 1)
        },
        nodes={NODE: Node(1, NODE)},
        isps={1: Isp(1, "Peer", (DOMAIN,))},
        strategies={1: strategy},
        retry_rules={1: retry},
        default_rules={1: DefaultRule(1, "all", 0, 0, 1)},
        bounce_patterns=patterns,
    )


def row(
    number: int,
    *,
    recipient: str = "",
    account: int = 1,
    attempt: int = 0,
    expires_in_s: float = 3600.0,
    mail_class: MailClass = MailClass.MAIN,
) -> QueuedRow:
    """A row due now in the lane of its account."""
    return QueuedRow(
        id=number,
        lane_id=account * 10 + int(mail_class),
        state=RowState.WAITING,
        message_id=uuid7(1_800_000_000_000 + number, number.to_bytes(10, "big")),
        recipient_no=0,
        recipient=ForwardPath.parse(recipient or f"r{number}@{DOMAIN}"),
        reverse_path=ReversePath.parse("news@sender.test"),
        content=ContentRef(1, number, 100, 0),
        header_from="sender.test",
        message_id_header=f"<{number}@sender.test>",
        account_id=account,
        sender_id=1,
        campaign_id=0,
        campaign="",
        mail_class=mail_class,
        tls_need=TlsNeed.POLICY,
        site=SITE,
        isp_id=1,
        accepted_at=NOW - timedelta(seconds=10),
        due_at=NOW,
        expires_at=NOW + timedelta(seconds=expires_in_s),
        attempt=attempt,
        claim_no=0,
        pinned_source_id=None,
        custom="",
    )

"""Which event is told to the sender by mail, under which name, and through what.

Gives    ReportKind, Report, report_of, may_lead_to_reports, DELAY_AFTER_S; Way, way_of,
         submission_of
Takes    events, the policy in force
Raises   SchemaError for facts that cannot be read
Follows  RFC 3461 §5.2.1-§5.2.3, RFC 3464 §2.3.3-4 (action and status), RFC 3463,
         RFC 8689 §5 (REQUIRETLS)

A report is never about another: it is sent with the null reverse-path, and its rows carry no
order. Its key names message, recipient and kind, so that each is told once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from mailcore.address import ForwardPath, ReversePath
from mailcore.dsn import DsnFacts, Notify
from mailcore.envelope import Recipient, Submission
from mailcore.events import OWN_PURGE_RULE, Event, EventKind
from mailcore.outcome import MailClass, TlsNeed
from mailcore.policy.lookup import may_use_domain, may_use_sender
from mailcore.policy.model import PolicySnapshot

# So long a message may be on its way before the sender who asked is told that it is late.
DELAY_AFTER_S = 4 * 3600.0
DAEMON = "mailer-daemon"
# Behind this no quote stands inside a JSON text unescaped: most bodies are never parsed.
_CARRIES_FACTS = re.compile(rb'"dsn": ?"S ')


class ReportKind(Enum):
    """What a report says; part of its key, so the values never change."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"


_FAILURES: Mapping[str, str] = {
    # Kind of event -> status where the event has none of its own that says more.
    EventKind.BOUNCED.value: "",
    EventKind.LATE_BOUNCED.value: "",
    EventKind.EXPIRED.value: "4.4.7",
    EventKind.STOPPED.value: "5.7.1",
    EventKind.PURGED.value: "5.7.0",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One report that is owed: of one recipient, of one kind."""

    kind: ReportKind
    status: str
    event: Event
    facts: DsnFacts

    @property
    def key(self) -> str:
        """What names it, the same for every repeat."""
        return f"report:{self.event.message_id}:{self.event.recipient_no}:{self.kind.value}"


@dataclass(frozen=True, slots=True)
class Way:
    """Through what a report is sent: as a message of the account whose mail it is about."""

    account_id: int
    sender_id: int
    domain: str
    lifetime_s: float
    revision: int


def may_lead_to_reports(lines: bytes) -> bool:
    """Whether some of these lines of JSON (`events.raw_lines`) may be told to somebody."""
    return _CARRIES_FACTS.search(lines) is not None


def report_of(event: Event) -> Report | None:
    """Return what the sender is to be told of an event, None for nothing."""
    if not event.dsn:
        return None
    facts = DsnFacts.parse(event.dsn)
    if not facts.reverse_path:
        return None
    kind = _kind(event, facts)
    return Report(kind, _status(event, kind), event, facts) if kind is not None else None


def _kind(event: Event, facts: DsnFacts) -> ReportKind | None:
    order = facts.order
    if event.kind in _FAILURES:
        # What the account removed itself it need not be told.
        is_own = event.kind == EventKind.PURGED.value and event.rule == OWN_PURGE_RULE
        return ReportKind.FAILED if order.wants(Notify.FAILURE) and not is_own else None
    if event.kind == EventKind.DELIVERED.value:
        is_told = order.wants(Notify.SUCCESS) and not facts.is_passed_on
        return ReportKind.RELAYED if is_told else None
    if event.kind == EventKind.DEFERRED.value and order.wants(Notify.DELAY):
        waited_ms = event.occurred_ms - max(event.accepted_ms, order.due_ms)
        return ReportKind.DELAYED if waited_ms >= DELAY_AFTER_S * 1000 else None
    return None


def _status(event: Event, kind: ReportKind) -> str:
    """Return the status: the server's own where it says what the report says."""
    if kind is ReportKind.FAILED:
        by_kind = _FAILURES[event.kind]
        if by_kind:
            return by_kind
        return event.enhanced if event.enhanced[:2] in ("4.", "5.") else _by_code(event.code)
    wanted = "2" if kind is ReportKind.RELAYED else "4"
    return event.enhanced if event.enhanced.startswith(f"{wanted}.") else f"{wanted}.0.0"


def _by_code(code: int) -> str:
    return "4.0.0" if code // 100 == 4 else "5.0.0"


def way_of(report: Report, policy: PolicySnapshot, *, host: str) -> Way | None:
    """Return through what a report is sent, None where the account is not told by mail."""
    event = report.event
    account = policy.accounts.get(event.account_id)
    if account is None or not account.is_active or not account.mails_reports:
        return None
    for sender_id in (event.sender_id, account.default_sender_id):
        if may_use_sender(policy, account_id=account.id, sender_id=sender_id):
            is_own = may_use_domain(policy, account_id=account.id, domain=event.header_from)
            domain = event.header_from if is_own else host
            return Way(account.id, sender_id, domain, account.lifetime_s, policy.revision)
    return None


def submission_of(report: Report, way: Way, *, message_id: UUID, content: bytes) -> Submission:
    """Return the report as a message of ours. It goes where the client's MAIL FROM said, not to
    the return path that stands in its place on the wire, and as the message asked to go."""
    needs_tls = report.facts.order.requires_tls
    return Submission(
        message_id=message_id,
        account_id=way.account_id,
        sender_id=way.sender_id,
        mail_class=MailClass.MAIN,
        header_from=way.domain,
        reverse_path=ReversePath("", ""),
        recipients=(Recipient(0, ForwardPath.parse(report.facts.reverse_path)),),
        content=content,
        tls_need=TlsNeed.REQUIRETLS if needs_tls else TlsNeed.POLICY,
        message_id_header=report_id(report, way.domain),
        custom={"report_of": report.event.message_id, "report": report.kind.value},
    )


def report_id(report: Report, domain: str) -> str:
    """Return the Message-ID of a report, the same for every repeat."""
    event = report.event
    name = f"{event.message_id.replace('-', '')}.{event.recipient_no}.{report.kind.value}"
    return f"<report.{name}@{domain}>"

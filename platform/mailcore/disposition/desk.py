"""The rules of a snapshot made ready, and the desk where decisions over a batch are collected.

Gives    Rulebook, write_rulebook; Desk, Words
Takes    a snapshot; decisions, one by one
Raises   PolicyRefused for a bounce pattern that cannot be compiled
Follows  design.md section 9 (what every event carries)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mailcore.classify.replies import CompiledPatterns, compile_patterns
from mailcore.disposition.settlement import Defer, Disposition, Finish
from mailcore.dsn import asks_for_delay, facts_text
from mailcore.envelope import QueuedRow
from mailcore.events import Event, EventKind, event_id, recipient_hash
from mailcore.outcome import Outcome, RowState, WaitReason
from mailcore.policy.lookup import return_path_domain
from mailcore.policy.model import PolicySnapshot
from mailcore.reply import SmtpReply
from mailcore.routing.source import Candidate, candidates
from mailcore.shaping.retry import Scenario, choose_scenario

MAX_REPLY = 500

# Bounce type, bounce class and rule, as an event carries them.
Words = tuple[str, str, str]
NO_WORDS: Words = ("", "", "")


@dataclass(frozen=True, slots=True)
class Rulebook:
    """What of a snapshot decides over outcomes, prepared once per snapshot."""

    policy: PolicySnapshot
    patterns: CompiledPatterns
    source_ids: Mapping[tuple[str, str], int]
    _scenarios: dict[tuple[int, int], Scenario] = field(default_factory=dict, repr=False)
    _members: dict[int, tuple[Candidate, ...]] = field(default_factory=dict, repr=False)

    def scenario(self, row: QueuedRow) -> Scenario:
        """Return the rules for a row's sender and ISP."""
        key = (row.sender_id, row.isp_id)
        found = self._scenarios.get(key)
        if found is None:
            found = choose_scenario(self.policy, sender_id=row.sender_id, isp_id=row.isp_id)
            self._scenarios[key] = found
        return found

    def members(self, row: QueuedRow) -> tuple[Candidate, ...]:
        """Return the active sources of a row's sender."""
        found = self._members.get(row.sender_id)
        if found is None:
            sender = self.policy.senders.get(row.sender_id)
            found = () if sender is None else candidates(self.policy, sender.pool_id)
            self._members[row.sender_id] = found
        return found


def write_rulebook(policy: PolicySnapshot) -> Rulebook:
    """Prepare a snapshot, or raise PolicyRefused for a pattern that cannot be compiled."""
    sources = {(each.node, each.address): each.id for each in policy.sources.values()}
    return Rulebook(policy, compile_patterns(policy.bounce_patterns), sources)


class Desk:
    """Collects what is decided over one batch, and writes its events."""

    def __init__(self, rules: Rulebook, node: str, now: datetime) -> None:
        self.rules = rules
        self.now = now
        self._node = node
        self._now_ms = _ms(now)
        self._finish: list[Finish] = []
        self._defer: list[Defer] = []
        self._events: list[Event] = []
        self._normalised: dict[str, str] = {}

    def disposition(self, strays: Iterable[Outcome] = ()) -> Disposition:
        return Disposition(
            tuple(self._finish), tuple(self._defer), tuple(self._events), tuple(strays)
        )

    def source_id(self, outcome: Outcome) -> int:
        """The source of an attempt, by its address where the outcome does not name it."""
        address = outcome.session.source_address
        return outcome.source_id or self.rules.source_ids.get((self._node, address), 0)

    def end(
        self,
        row: QueuedRow,
        kind: EventKind,
        outcome: Outcome,
        words: Words,
        tries: int = 1,
    ) -> None:
        self._finish.append(Finish(row.id))
        self.tell(row, kind, outcome, words, tries=tries)

    def wait(
        self,
        row: QueuedRow,
        outcome: Outcome,
        delay_s: float,
        reason: WaitReason,
        *,
        pinned: int | None = None,
        state: RowState = RowState.WAITING,
    ) -> None:
        reply = str(outcome.reply)[:MAX_REPLY]
        self._defer.append(
            Defer(row.id, outcome.claim_no, delay_s, reason, reply, pinned, state=state)
        )

    def give_back(
        self, row: QueuedRow, delay_s: float, reason: WaitReason, state: RowState
    ) -> None:
        self._defer.append(
            Defer(
                row.id,
                row.claim_no,
                delay_s,
                reason,
                pinned_source_id=row.pinned_source_id,
                counts_attempt=False,
                state=state,
            )
        )

    def tell(
        self,
        row: QueuedRow,
        kind: EventKind,
        outcome: Outcome,
        words: Words,
        *,
        due_in_s: float = 0.0,
        tries: int = 1,
    ) -> None:
        """Write one event. Long because an event has that many fields; there is no choice in it."""
        policy, session, reply = self.rules.policy, outcome.session, outcome.reply
        occurred_ms = outcome.occurred_ms or self._now_ms
        sender = policy.senders.get(row.sender_id)
        isp = policy.isps.get(row.isp_id)
        accepted_ms = _ms(row.accepted_at)
        # A replayed journal tells of attempts made before now.
        occurred_ms = outcome.occurred_ms or self._now_ms
        text = str(reply)[:MAX_REPLY]
        is_delivered = kind is EventKind.DELIVERED
        self._events.append(
            Event(
                event_id=event_id(
                    message_id=row.message_id,
                    recipient_no=row.recipient_no,
                    claim_no=outcome.claim_no,
                    kind=kind,
                ),
                kind=kind.value,
                occurred_ms=occurred_ms,
                message_id=str(row.message_id),
                recipient_no=row.recipient_no,
                claim_no=outcome.claim_no,
                account_id=row.account_id,
                campaign_id=row.campaign_id,
                campaign=row.campaign,
                sender_id=row.sender_id,
                node=self._node,
                source_id=self.source_id(outcome),
                source_ip=session.source_address,
                pool_id=sender.pool_id if sender is not None else 0,
                isp_id=row.isp_id,
                isp=isp.name if isp is not None else "",
                site=row.site,
                mx_host=session.mx_host,
                mx_address=session.mx_address,
                mail_class=row.mail_class.word,
                recipient=str(row.recipient),
                recipient_domain=row.recipient.domain,
                recipient_hash=recipient_hash(row.recipient.key),
                header_from=row.header_from,
                message_id_header=row.message_id_header,
                accepted_ms=accepted_ms,
                attempt=row.attempt + tries,
                stage=outcome.stage,
                scope="" if is_delivered else outcome.scope.value,
                bounce_type=words[0],
                bounce_class=words[1],
                code=reply.code,
                enhanced="" if reply.enhanced is None else str(reply.enhanced),
                reply=text,
                reply_normal="" if is_delivered else self._normal(reply, text),
                rule=words[2],
                next_due_ms=self._now_ms + round(due_in_s * 1000) if due_in_s else 0,
                tls_version=session.tls_version,
                tls_cipher=session.tls_cipher,
                size_bytes=row.content.length,
                queue_ms=max(0, occurred_ms - outcome.dialogue_ms - accepted_ms),
                dialogue_ms=outcome.dialogue_ms,
                policy_revision=policy.revision,
                custom=row.custom,
                tls_policy=session.tls_policy,
                tls_result=session.tls_result,
                dsn=self._dsn(row, kind, outcome) if row.dsn else "",
            )
        )

    def _dsn(self, row: QueuedRow, kind: EventKind, outcome: Outcome) -> str:
        """Return what a report to the sender needs, "" where this event never leads to one."""
        if row.reverse_path.is_null or kind is EventKind.ACCEPTED:
            return ""
        if kind is EventKind.DEFERRED and not asks_for_delay(row.dsn):
            return ""
        # Where our return path stands in MAIL, success is not asked for: `engines.prepare`.
        is_ours = return_path_domain(
            self.rules.policy, sender_id=row.sender_id, header_from=row.header_from
        )
        return facts_text(
            row.dsn,
            reverse_path=str(row.reverse_path),
            content=row.content,
            expires_ms=_ms(row.expires_at),
            is_passed_on=outcome.session.offers_dsn and not is_ours,
            is_local=outcome.reply.is_local,
        )

    def _normal(self, reply: SmtpReply, text: str) -> str:
        """Replies repeat within a batch, and normalising one costs as much as the whole event."""
        found = self._normalised.get(text)
        if found is None:
            found = self._normalised[text] = reply.normalised()
        return found


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)

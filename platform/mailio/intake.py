"""The one front door, whatever the protocol: submissions -> spool -> ledger -> a notice to ring.

Gives    Intake.submit: returns once every message of a request is durable, row and content;
         submit_all for who gathered requests itself and has one thread for them
         RequestKey (Idempotency-Key), Request, Receipt, RecipientReceipt, Answer
Takes    plans (mailcore.submission), the ledger's Acceptor, a SpoolWriter
Raises   StoreUnavailable: nothing of the request may be called accepted; StoreFull: no room for it
Follows  design.md section 3 step 1 and its accounting

Thread-safe. All that threads offer at the same time goes out together: one append to the spool,
one transaction with rows, lane counts, keys and the events that tell it. A stop-listed recipient
is accepted, then stopped: two events, no row. A rejected one is an event and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import UUID

from mailcore.dsn import facts_text
from mailcore.envelope import ContentRef, Recipient
from mailcore.events import Event, EventKind, encode_lines, event_id, recipient_hash
from mailcore.ports import SpoolWriter
from mailcore.stoplist import Stop, divide
from mailcore.submission import Plan, Rejected
from mailio.clock import LedgerClock
from mailio.ledger.accept import (
    AcceptBatch,
    AcceptMessage,
    Acceptor,
    AcceptRecipient,
    AcceptStatus,
    EventBody,
    IdempotencyKey,
    KnownRoute,
)
from mailio.pressure import is_urgent, with_reserve
from mailio.spool.group import GroupCommit

_MAX_BATCH_BYTES = 32 * 2**20
_NOT_ROUTED = KnownRoute("", 0)
_CLOCK_EVERY_S = 60.0


class Waker(Protocol):
    """Tells the ringer that there is mail. Never blocks, never fails."""

    def wake(self) -> None:
        """Say it."""
        ...


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key: whose it is, and the hash of the body it came with."""

    account_id: int
    key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class RecipientReceipt:
    """What became of one recipient at the door; `code` is "" for one that is simply ours."""

    address: str
    is_accepted: bool
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one message: its recipients in the order they were offered."""

    message_id: UUID
    recipients: tuple[RecipientReceipt, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """Messages to be accepted together. `answer` writes what is stored under the key."""

    plans: Sequence[Plan]
    key: RequestKey | None
    answer: Callable[[Sequence[Receipt]], str]


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is the answer to give: the request's own, or the first one's when REPEATED."""

    status: AcceptStatus
    text: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """A message with all that was looked up for it."""

    plan: Plan
    kept: tuple[Recipient, ...]
    stopped: tuple[tuple[Recipient, Stop], ...]
    routes: dict[str, KnownRoute]
    campaign_id: int
    custom: str


class Intake:
    """Takes requests of any thread. One object per process."""

    def __init__(
        self,
        acceptor: Acceptor,
        spool: SpoolWriter,
        *,
        clock: LedgerClock,
        waker: Waker,
        gate: Callable[[bool], None] = lambda is_urgent: None,
        linger_s: float = 0.0015,
    ) -> None:
        self._acceptor = acceptor
        self._spool = spool
        self._clock = clock
        self._waker = waker
        self._gate = gate
        self._clock_read_at: float | None = None
        self._group: GroupCommit[Sequence[Request], list[Answer]] = GroupCommit(
            self._commit, linger_s=linger_s, weigh=_weight, max_weight=_MAX_BATCH_BYTES
        )

    def submit(self, request: Request) -> Answer:
        """Accept a request's messages and say what to answer."""
        return self._group.submit((request,))[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Answer]:
        """Accept the messages of several requests in one commit; an answer for each, in order.

        What they have in common is the commit: a key that is taken takes no other out.
        """
        return self._group.submit(requests) if requests else []

    def find(self, key: RequestKey) -> Answer | None:
        """Return the answer a key was used for already, None if it is free."""
        found = self._acceptor.find_idempotent(key.account_id, key.key)
        if found is None:
            return None
        if found.body_hash != key.body_hash:
            return Answer(AcceptStatus.REUSED, "")
        return Answer(AcceptStatus.REPEATED, found.answer)

    def _commit(self, groups: Sequence[Sequence[Request]]) -> Sequence[list[Answer] | Exception]:
        self._keep_time()
        urgent = [is_urgent(plan for one in group for plan in one.plans) for group in groups]
        return with_reserve(groups, urgent, commit=self._commit_groups)

    def _commit_groups(
        self, groups: Sequence[Sequence[Request]], urgent: bool
    ) -> list[list[Answer]]:
        self._gate(urgent)
        with self._spool.holding():
            answers = iter(self._commit_held([one for group in groups for one in group], urgent))
        return [[next(answers) for _ in group] for group in groups]

    def _commit_held(self, requests: Sequence[Request], urgent: bool) -> list[Answer]:
        drafts = self._drafts([plan for request in requests for plan in request.plans])
        refs = self._spool.append([d.plan.submission.content for d in drafts], is_urgent=urgent)
        answers = self._answers(requests, drafts)
        messages: list[AcceptMessage] = []
        position = 0
        for request, answer in zip(requests, answers, strict=True):
            key = _stored_key(request, answer)
            for _ in request.plans:
                messages.append(_message(drafts[position], refs[position], key))
                position += 1
        by_id = {draft.plan.submission.message_id: draft for draft in drafts}
        now_ms = self._clock.now_ms()

        def events(taken: Sequence[AcceptMessage]) -> EventBody:
            told = [e for m in taken for e in _events(by_id[m.message_id], m.content, now_ms)]
            return EventBody(encode_lines(told), len(told))

        fates = self._acceptor.accept(AcceptBatch(messages, events)).messages
        self._waker.wake()
        result: list[Answer] = []
        position = 0
        for request, answer in zip(requests, answers, strict=True):
            fate = fates[position]
            position += len(request.plans)
            text = fate.answer if fate.status is AcceptStatus.REPEATED else answer
            result.append(Answer(fate.status, text))
        return result

    def _answers(self, requests: Sequence[Request], drafts: Sequence[_Draft]) -> list[str]:
        remaining = iter(drafts)
        return [
            request.answer([_receipt(next(remaining)) for _ in request.plans])
            for request in requests
        ]

    def _keep_time(self) -> None:
        now = self._clock.monotonic()
        if self._clock_read_at is None or now - self._clock_read_at > _CLOCK_EVERY_S:
            self._clock.refresh(self._acceptor.database_time)
            self._clock_read_at = now

    def _drafts(self, plans: Sequence[Plan]) -> list[_Draft]:
        """Look up what the rows need: one question of each kind for an account or for all."""
        stops: dict[int, dict[str, Stop]] = {}
        campaigns: dict[int, dict[str, int]] = {}
        for account_id in {plan.submission.account_id for plan in plans}:
            own = [p.submission for p in plans if p.submission.account_id == account_id]
            hashes = {_hash(r) for submission in own for r in submission.recipients}
            stops[account_id] = {
                key: Stop(found.account_id, found.reason, found.detail)
                for key, found in self._acceptor.stopped(account_id, hashes).items()
            }
            labels = {submission.campaign for submission in own} - {""}
            campaigns[account_id] = self._acceptor.campaign_ids(account_id, labels)
        routes = self._acceptor.known_routes(
            {r.address.domain for plan in plans for r in plan.submission.recipients}
        )
        drafts: list[_Draft] = []
        for plan in plans:
            submission = plan.submission
            account_id = submission.account_id
            kept, stopped = divide(submission.recipients, stops[account_id], key=_hash)
            number = campaigns[account_id].get(submission.campaign, 0)
            custom = _compact(dict(submission.custom)) if submission.custom else ""
            drafts.append(_Draft(plan, tuple(kept), tuple(stopped), routes, number, custom))
        return drafts


def _weight(requests: Sequence[Request]) -> int:
    return sum(len(plan.submission.content) for one in requests for plan in one.plans)


def _hash(recipient: Recipient) -> str:
    return recipient_hash(recipient.address.key)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _stored_key(request: Request, answer: str) -> IdempotencyKey | None:
    key = request.key
    if key is None:
        return None
    return IdempotencyKey(key.account_id, key.key, key.body_hash, answer)


def _message(draft: _Draft, ref: ContentRef, key: IdempotencyKey | None) -> AcceptMessage:
    submission = draft.plan.submission
    return AcceptMessage(
        message_id=submission.message_id,
        account_id=submission.account_id,
        sender_id=submission.sender_id,
        mail_class=submission.mail_class,
        header_from=submission.header_from,
        reverse_path=str(submission.reverse_path),
        content=ref,
        recipients=tuple(_row(recipient, draft) for recipient in draft.kept),
        lifetime_s=draft.plan.lifetime_s,
        campaign_id=draft.campaign_id,
        tls_need=submission.tls_need,
        message_id_header=submission.message_id_header,
        custom=draft.custom,
        send_at=submission.send_at,
        expires_at=submission.expires_at,
        idempotency=key,
    )


def _route(domain: str, draft: _Draft) -> KnownRoute:
    site = draft.plan.sites.get(domain)
    if site is not None:
        return KnownRoute(site.name, site.isp_id)
    return draft.routes.get(domain, _NOT_ROUTED)


def _row(recipient: Recipient, draft: _Draft) -> AcceptRecipient:
    domain = recipient.address.domain
    route = _route(domain, draft)
    return AcceptRecipient(
        recipient.number,
        str(recipient.address),
        domain,
        route.site,
        route.isp_id,
        recipient.dsn,
    )


def _receipt(draft: _Draft) -> Receipt:
    """The recipients as they were offered: accepted, stopped and rejected ones in their places."""
    places: dict[int, RecipientReceipt] = {}
    for recipient in draft.kept:
        places[recipient.number] = RecipientReceipt(str(recipient.address), True)
    for recipient, stop in draft.stopped:
        address = str(recipient.address)
        places[recipient.number] = RecipientReceipt(address, True, "stopped", stop.reason)
    for rejected in draft.plan.rejected:
        places[rejected.number] = RecipientReceipt(
            rejected.address, False, rejected.code, rejected.detail
        )
    return Receipt(
        draft.plan.submission.message_id, tuple(places[number] for number in sorted(places))
    )


# ── events ────────────────────────────────────────────────────────────────────────────────────


def _events(draft: _Draft, ref: ContentRef, now_ms: int) -> Iterable[Event]:
    for recipient in draft.kept:
        yield _event(draft, EventKind.ACCEPTED, recipient, now_ms)
    for recipient, stop in draft.stopped:
        yield _event(draft, EventKind.ACCEPTED, recipient, now_ms)
        stopped = _event(draft, EventKind.STOPPED, recipient, now_ms)
        dsn = _dsn(draft, recipient, ref)
        yield replace(stopped, rule=stop.reason, reply=stop.detail, dsn=dsn)
    for rejected in draft.plan.rejected:
        yield _rejected_event(draft, rejected, now_ms)


def _event(draft: _Draft, kind: EventKind, recipient: Recipient, now_ms: int) -> Event:
    submission, address = draft.plan.submission, recipient.address
    route = _route(address.domain, draft)
    return Event(
        event_id=event_id(
            message_id=submission.message_id,
            recipient_no=recipient.number,
            claim_no=0,
            kind=kind,
        ),
        kind=kind.value,
        occurred_ms=now_ms,
        message_id=str(submission.message_id),
        recipient_no=recipient.number,
        claim_no=0,
        account_id=submission.account_id,
        campaign_id=draft.campaign_id,
        campaign=submission.campaign,
        sender_id=submission.sender_id,
        isp_id=route.isp_id,
        site=route.site,
        mail_class=submission.mail_class.word,
        recipient=str(address),
        recipient_domain=address.domain,
        recipient_hash=_hash(recipient),
        header_from=submission.header_from,
        message_id_header=submission.message_id_header,
        accepted_ms=now_ms,
        size_bytes=len(submission.content),
        policy_revision=draft.plan.policy_revision,
        custom=draft.custom,
    )


def _dsn(draft: _Draft, recipient: Recipient, ref: ContentRef) -> str:
    """Return what a report of a recipient needs who is stopped at the door."""
    reverse_path = draft.plan.submission.reverse_path
    if not recipient.dsn or reverse_path.is_null:
        return ""
    path = str(reverse_path)
    return facts_text(recipient.dsn, reverse_path=path, content=ref, is_local=True)


def _rejected_event(draft: _Draft, rejected: Rejected, now_ms: int) -> Event:
    submission = draft.plan.submission
    return Event(
        event_id=event_id(
            message_id=submission.message_id,
            recipient_no=rejected.number,
            claim_no=0,
            kind=EventKind.REJECTED,
        ),
        kind=EventKind.REJECTED.value,
        occurred_ms=now_ms,
        message_id=str(submission.message_id),
        recipient_no=rejected.number,
        claim_no=0,
        account_id=submission.account_id,
        campaign_id=draft.campaign_id,
        campaign=submission.campaign,
        sender_id=submission.sender_id,
        mail_class=submission.mail_class.word,
        recipient=rejected.address,
        header_from=submission.header_from,
        message_id_header=submission.message_id_header,
        rule=rejected.code,
        reply=rejected.detail[:500],
        size_bytes=len(submission.content),
        policy_revision=draft.plan.policy_revision,
        custom=draft.custom,
    )

"""Take what programs offer over HTTP: parse, plan, accept, answer.

Gives    door: the intake of this process, opened when first needed; Door
         submit: one message or a list, to an Outcome that says what to answer
Takes    a parsed JSON body, or a bare message with its envelope
Raises   SubmissionRefused, StoreUnavailable

No ORM: the policy is a snapshot, the queue is plain SQL.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings

from control.submission.policy import PolicyReader
from mailcore.envelope import uuid7
from mailcore.errors import Problem, SubmissionRefused
from mailcore.policy.model import Node
from mailcore.ports import PolicySource, Statistics, StoreUnavailable
from mailcore.submission import Offer, Plan, parse_offer, plan_submission
from mailio.clock import LedgerClock
from mailio.intake import Intake, Receipt, Request, RequestKey
from mailio.ledger.accept import Acceptor, AcceptStatus
from mailio.ledger.outbox import PgOutbox
from mailio.pressure import OutboxGate
from mailio.settings import Settings
from mailio.snapshots import SnapshotStore
from mailio.spool.opening import open_spool
from mailio.stats import open_statistics
from mailio.wake import RedisWaker

MAX_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Door:
    """The adapters of this process. `close` gives them back."""

    intake: Intake
    policy: PolicySource
    clock: LedgerClock
    outbox: PgOutbox
    statistics: Statistics
    close: Callable[[], None]
    stop_bytes: Callable[[], int] = lambda: 0


class _Doors:
    """One door a process: a forked child opens its own."""

    lock: ClassVar[threading.Lock] = threading.Lock()
    opened: ClassVar[dict[int, Door]] = {}


def door() -> Door:
    """Return this process's door."""
    pid = os.getpid()
    found = _Doors.opened.get(pid)
    if found is None:
        with _Doors.lock:
            found = _Doors.opened.get(pid)
            if found is None:
                configured: Settings | None = settings.POSTFLEET
                if configured is None:
                    raise StoreUnavailable("settings", "this process has no stores")
                found = _Doors.opened[pid] = open_door(configured)
    return found


def close_door() -> None:
    """Close this process's door; the next request opens it again."""
    found = _Doors.opened.pop(os.getpid(), None)
    if found is not None:
        found.close()


def open_door(configured: Settings) -> Door:
    """Build the adapters. Nothing is connected before it is used."""
    acceptor = Acceptor(configured.database_url)
    policy = PolicyReader(SnapshotStore(configured.database_url))

    def must_stay_free() -> int:
        node = policy.current().nodes.get(configured.node) or Node(0, configured.node)
        return node.spool_stop_bytes

    spool = open_spool(configured, min_free_bytes=must_stay_free, owner=acceptor.installation)
    clock = LedgerClock()
    waker = RedisWaker(configured.redis_url)
    outbox = PgOutbox(configured.database_url)
    gate = OutboxGate(acceptor.outbox_bytes, stop_bytes=configured.outbox_stop_bytes)

    def close() -> None:
        for one in (waker, acceptor, spool, policy, outbox):
            one.close()

    return Door(
        intake=Intake(acceptor, spool, clock=clock, waker=waker, gate=gate.check),
        policy=policy,
        clock=clock,
        outbox=outbox,
        statistics=open_statistics(configured.clickhouse_url),
        close=close,
        stop_bytes=must_stay_free,
    )


# ── one request ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to answer: JSON text, or nothing when the key belongs to another body."""

    status: AcceptStatus
    text: str


@dataclass(frozen=True, slots=True)
class _Result:
    """One message of a list: a plan, or what is wrong with it."""

    plan: Plan | None
    problems: tuple[Problem, ...] = ()


def submit_one(offer: Offer, *, account_id: int, key: RequestKey | None) -> Outcome:
    """Accept one message; the answer is its receipt."""
    plan = _plan(offer, account_id)
    return _accept([plan], key, lambda receipts: _dump(_shown(receipts[0])))


def submit_list(
    messages: Sequence[object],
    *,
    account_id: int,
    key: RequestKey | None,
    show_problem: Callable[[Sequence[Problem]], dict[str, Any]],
) -> Outcome:
    """Accept those of a list that can be; refuse it when none can."""
    results = [
        _judge(body, f"/messages/{index}", account_id) for index, body in enumerate(messages)
    ]
    plans = [result.plan for result in results if result.plan is not None]
    if not plans:
        raise SubmissionRefused([p for result in results for p in result.problems][:1000])

    def answer(receipts: Sequence[Receipt]) -> str:
        remaining = iter(receipts)
        return _dump({"results": list(_merged(results, remaining, show_problem))})

    return _accept(plans, key, answer)


def messages_of(body: object) -> Sequence[object] | None:
    """Return the list in a body `{"messages": […]}`; None for a body that is one message."""
    if not isinstance(body, dict) or "messages" not in body:
        return None
    problems = [
        Problem(f"/{name}"[:80], "unknown_field", f"{name[:80]!r} cannot stand beside 'messages'")
        for name in body
        if name != "messages"
    ]
    messages = body["messages"]
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        detail = f"a list of 1 to {MAX_MESSAGES} messages is needed here"
        problems.append(Problem("/messages", "type", detail))
    if problems:
        raise SubmissionRefused(problems)
    return list(messages)


def _accept(
    plans: Sequence[Plan], key: RequestKey | None, answer: Callable[[Sequence[Receipt]], str]
) -> Outcome:
    given = door().intake.submit(Request(plans, key, answer))
    return Outcome(given.status, given.text)


def _judge(body: object, pointer: str, account_id: int) -> _Result:
    try:
        return _Result(_plan(parse_offer(body, pointer=pointer), account_id))
    except SubmissionRefused as exc:
        return _Result(None, exc.problems)


def _plan(offer: Offer, account_id: int) -> Plan:
    ours = door()
    now = ours.clock.now()
    return plan_submission(
        offer,
        policy=ours.policy.current(),
        account_id=account_id,
        message_id=uuid7(int(now.timestamp() * 1000), os.urandom(10)),
        now=now,
    )


def _merged(
    results: Sequence[_Result],
    receipts: Iterator[Receipt],
    show_problem: Callable[[Sequence[Problem]], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    for result in results:
        if result.plan is not None:
            yield _shown(next(receipts))
        else:
            yield {"message_id": None, "problem": show_problem(result.problems)}


def _shown(receipt: Receipt) -> dict[str, Any]:
    return {
        "message_id": str(receipt.message_id),
        "recipients": [
            {
                "recipient": one.address,
                "accepted": one.is_accepted,
                "reason": one.code or None,
                **({"detail": one.detail} if one.detail else {}),
            }
            for one in receipt.recipients
        ],
    }


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)

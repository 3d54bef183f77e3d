"""Letters that came by SMTP -> plans -> intake -> the reply each of them gets.

Gives    LetterIntake.take: a batch in, one reply each, in order; blocking
Takes    the intake, the policy in force, tokens to look at again
Raises   nothing: whatever goes wrong is a 4yz for the letters it touches
Follows  design.md section 3 step 1; RFC 3463 for what is told

250 is said of a letter whose row and content are durable, and of no other.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from mailcore.dsn import DsnOrder
from mailcore.envelope import uuid7
from mailcore.errors import Problem, SubmissionRefused
from mailcore.outcome import MailClass, TlsNeed
from mailcore.policy.lookup import may_use_domain
from mailcore.ports import Clock, PolicySource, StoreFull, StoreUnavailable
from mailcore.reception import Identity, Letter, read_orders, received_field
from mailcore.reply import SmtpReply
from mailcore.submission import Offer, OfferedRecipient, parse_offer, plan_submission
from mailio.intake import Answer, Intake, Receipt, Request, RequestKey
from mailio.ledger.accept import AcceptStatus
from mailio.pressure import is_urgent

log = logging.getLogger(__name__)
_LATER = SmtpReply.local(451, "4.3.0", "the message cannot be stored now, try again later")
_AWAY = SmtpReply.local(451, "4.3.1", "the queue is not available now, try again later")
_NO_ROOM = SmtpReply.local(452, "4.3.1", "there is no room for more mail, try again later")
_REVOKED = SmtpReply.local(535, "5.7.8", "the credentials of this session hold no more")
_REUSED = SmtpReply.local(
    554, "5.5.4", "X-Postfleet-Idempotency-Key: the key was used for another message"
)
# Codes of mailcore.submission that are no fault of the content.
_STATUS = {
    "account_inactive": (550, "5.7.1"),
    "from_domain_not_allowed": (550, "5.7.1"),
    "unknown_sender": (550, "5.7.1"),
    "required": (550, "5.7.1"),
    "too_large": (552, "5.3.4"),
    "too_many_recipients": (452, "4.5.3"),
}
_ORDERED = frozenset({"campaign", "custom", "expires_at", "priority", "send_at", "sender"})
_SHOWN_PROBLEMS = 5


class TokenCheck(Protocol):
    """Whether what a session logged in with still holds. May raise StoreUnavailable."""

    def is_valid(self, identity: Identity) -> bool:
        """Return whether it does."""
        ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """What our Received field says. `shows_client`: also where the message came from."""

    host: str
    shows_client: bool = False


class LetterIntake:
    """Takes letters of one thread."""

    def __init__(
        self,
        intake: Intake,
        policy: PolicySource,
        tokens: TokenCheck,
        *,
        clock: Clock,
        stamp: Stamp,
    ) -> None:
        self._intake = intake
        self._policy = policy
        self._tokens = tokens
        self._clock = clock
        self._stamp = stamp

    def take(self, letters: Sequence[tuple[Letter, str]]) -> list[SmtpReply]:
        """Accept those that may be; each comes with the address of its client."""
        replies: list[SmtpReply] = []
        requests: dict[int, Request] = {}
        for at, (letter, client) in enumerate(letters):
            judged = self._judge(letter, client)
            if isinstance(judged, Request):
                requests[at] = judged
                replies.append(_LATER)
            else:
                replies.append(judged)
        for at, reply in zip(requests, self._accept(list(requests.values())), strict=True):
            replies[at] = reply
        return replies

    def _judge(self, letter: Letter, client: str) -> Request | SmtpReply:
        try:
            if letter.identity.credential and not self._tokens.is_valid(letter.identity):
                return _REVOKED
            return self._request(letter, client)
        except SubmissionRefused as exc:
            return _refusal(exc.problems)
        except StoreUnavailable:
            return _AWAY
        except Exception:
            # The plane's edge: a letter we stumble over must not take the others with it.
            log.exception("a letter cannot be read", extra={"account": letter.identity.account_id})
            return _LATER

    def _request(self, letter: Letter, client: str) -> Request:
        now = self._clock.now()
        message_id = uuid7(int(now.timestamp() * 1000), os.urandom(10))
        account_id = letter.identity.account_id
        orders = dict(read_orders(letter.content))
        key = orders.pop("idempotency_key", None)
        received = received_field(
            letter,
            host=self._stamp.host,
            queue_id=str(message_id),
            at=now,
            client=client if self._stamp.shows_client else "",
        )
        policy = self._policy.current()
        plan = plan_submission(
            replace(_offer(letter, orders), trace=received),
            policy=policy,
            account_id=account_id,
            message_id=message_id,
            now=now,
        )
        given = letter.reverse_path
        is_own = may_use_domain(policy, account_id=account_id, domain=given.domain)
        if given != plan.submission.reverse_path and (given.is_null or is_own):
            plan = replace(plan, submission=replace(plan.submission, reverse_path=given))
        if letter.requires_tls:
            asked = replace(plan.submission, tls_need=TlsNeed.REQUIRETLS)
            plan = replace(plan, submission=asked)
        request_key = RequestKey(account_id, key, _body_hash(letter)) if key else None
        return Request((plan,), request_key, _queue_id)

    def _accept(self, requests: Sequence[Request]) -> list[SmtpReply]:
        if not requests:
            return []
        try:
            answers = self._intake.submit_all(requests)
        except StoreFull as exc:
            urgent = [request for request in requests if is_urgent(request.plans)]
            if 0 < len(urgent) < len(requests):
                told = iter(self._accept(urgent))
                return [next(told) if is_urgent(one.plans) else _NO_ROOM for one in requests]
            log.error("no room for mail", extra={"store": exc.store, "reason": exc.reason})
            return [_NO_ROOM] * len(requests)
        except StoreUnavailable as exc:
            log.warning("mail not accepted", extra={"store": exc.store, "reason": exc.reason})
            return [_AWAY] * len(requests)
        except Exception:
            # Nothing of it was committed: one statement takes all or nothing. Alone, only the
            # one that the database cannot store is left.
            log.exception("a batch cannot be stored", extra={"letters": len(requests)})
            if len(requests) == 1:
                return [_LATER]
            return [reply for request in requests for reply in self._accept([request])]
        # Apart from the rest: what breaks now is committed, and must not be submitted again.
        return [_told(answer) for answer in answers]


def _offer(letter: Letter, orders: dict[str, object]) -> Offer:
    raw = letter.content
    if not orders:
        return Offer("", None, raw, _recipients(letter), mail_class=MailClass.MAIN)
    # Whom it goes to was told by RCPT: here only what the fields ask for is read.
    shown = {"raw": "", "recipients": [str(letter.recipients[0].address)], **orders}
    offer = parse_offer(shown)
    return replace(offer, raw=raw, recipients=_recipients(letter, offer.send_at))


def _recipients(letter: Letter, send_at: datetime | None = None) -> tuple[OfferedRecipient, ...]:
    """Return them with the reports they are asked for; equal orders are one text."""
    due_ms = round(send_at.timestamp() * 1000) if send_at is not None else 0
    order = DsnOrder.of_mail(
        ret=letter.ret, envid=letter.envid, due_ms=due_ms, requires_tls=letter.requires_tls
    )
    common = order.to_text()
    return tuple(
        OfferedRecipient(
            "/recipients",
            str(one.address),
            one.address,
            dsn=order.of_rcpt(one.notify, one.orcpt).to_text()
            if one.notify or one.orcpt
            else common,
        )
        for one in letter.recipients
    )


def _body_hash(letter: Letter) -> bytes:
    digest = hashlib.sha256(letter.content)
    for one in letter.recipients:
        digest.update(b"\0" + one.address.key.encode())
    return digest.digest()


def _queue_id(receipts: Sequence[Receipt]) -> str:
    return str(receipts[0].message_id)


def _told(answer: Answer) -> SmtpReply:
    if answer.status is AcceptStatus.REUSED:
        return _REUSED
    repeated = " before" if answer.status is AcceptStatus.REPEATED else ""
    return SmtpReply.local(250, "2.0.0", f"queued{repeated} as {answer.text}")


def _refusal(problems: Sequence[Problem]) -> SmtpReply:
    """Say what is wrong, in the class of the first problem."""
    code, enhanced = _STATUS.get(problems[0].code, (554, "5.6.0"))
    texts = []
    for problem in problems[:_SHOWN_PROBLEMS]:
        field = problem.pointer.split("/")[1] if problem.pointer else "raw"
        name = f"X-Postfleet-{field.replace('_', '-').title()}: " if field in _ORDERED else ""
        texts.append(name + problem.detail)
    return SmtpReply(code, tuple(texts), SmtpReply.local(code, enhanced, "").enhanced)

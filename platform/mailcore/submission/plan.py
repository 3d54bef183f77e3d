"""Judge an offer: may this account send it, to whom, when.

Gives    Plan (a Submission and who was rejected), Rejected; plan_submission
Takes    the offer, the policy in force, the account, the time, the new message's id
Raises   SubmissionRefused with a pointer for each reason
Follows  design.md section 3 step 1 and its accounting: a bad address or a duplicate is rejected,
         never accepted
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from mailcore.address import ReversePath
from mailcore.envelope import Recipient, Submission
from mailcore.errors import Problem, SubmissionRefused
from mailcore.policy.lookup import may_use_domain, may_use_sender
from mailcore.policy.model import Account, PolicySnapshot
from mailcore.render import Content, build, repair
from mailcore.render.build import to_crlf
from mailcore.routing.site import IspIndex, Site, relay_site
from mailcore.submission.offer import MAX_RECIPIENTS, Offer

MAX_AHEAD = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A recipient we do not take: its place in the offer, as written, and why."""

    number: int
    address: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A message we may take. `lifetime_s` counts where the offer names no end. `sites` are those of
    recipient domains that need no DNS: all of a sender that has a relay."""

    submission: Submission
    rejected: tuple[Rejected, ...]
    lifetime_s: float
    policy_revision: int
    sites: Mapping[str, Site] = field(default_factory=dict)


def plan_submission(
    offer: Offer, *, policy: PolicySnapshot, account_id: int, message_id: UUID, now: datetime
) -> Plan:
    """Return what to take of an offer, or refuse it whole."""
    account = policy.accounts.get(account_id)
    if account is None or not account.is_active:
        detail = "the account is not active, or not yet published"
        raise SubmissionRefused([Problem(offer.pointer, "account_inactive", detail)])
    problems: list[Problem] = []
    sender_id = _sender_id(offer, policy, account, problems)
    _check_times(offer, now, problems)
    recipients, rejected = _recipients(offer, account, problems)
    if offer.parts is not None:
        _check_from(offer, offer.parts.sender.address.domain, policy, account, problems)
    _raise(problems)
    content = _content(offer, message_id=message_id, now=now)
    if offer.parts is None:
        _check_from(offer, content.header_from.domain, policy, account, problems)
    _check_size(offer, content, account, problems)
    _raise(problems)
    submission = Submission(
        message_id=message_id,
        account_id=account_id,
        sender_id=sender_id,
        mail_class=offer.mail_class,
        header_from=content.header_from.domain,
        reverse_path=ReversePath(content.header_from.local_part, content.header_from.domain),
        recipients=tuple(recipients),
        content=content.content,
        campaign=offer.campaign,
        send_at=offer.send_at if offer.send_at is not None and offer.send_at > now else None,
        expires_at=offer.expires_at,
        tls_need=offer.tls_need,
        message_id_header=content.message_id_header,
        subject=content.subject,
        custom=offer.custom,
    )
    sites = _relay_sites(submission, policy)
    return Plan(submission, tuple(rejected), account.lifetime_s, policy.revision, sites)


def _relay_sites(submission: Submission, policy: PolicySnapshot) -> Mapping[str, Site]:
    relay = policy.relays.get(submission.sender_id)
    if relay is None:
        return {}
    isps = IspIndex(policy.isps.values())
    domains = {recipient.address.domain for recipient in submission.recipients}
    return {domain: relay_site(relay, domain, isps) for domain in domains}


def _raise(problems: list[Problem]) -> None:
    if problems:
        raise SubmissionRefused(problems)


def _sender_id(
    offer: Offer, policy: PolicySnapshot, account: Account, problems: list[Problem]
) -> int:
    """Return the sender the offer names, or the account's own. Another's is as good as none."""
    wanted = offer.sender
    if wanted is None:
        if may_use_sender(policy, account_id=account.id, sender_id=account.default_sender_id):
            return account.default_sender_id
        detail = "the account has no sender of its own: name one"
        problems.append(Problem(f"{offer.pointer}/sender", "required", detail))
        return 0
    for sender in policy.senders.values():
        if wanted in (sender.id, sender.name) and account.id in sender.account_ids:
            return sender.id
    detail = f"the account has no sender {wanted!r}"
    problems.append(Problem(f"{offer.pointer}/sender", "unknown_sender", detail))
    return 0


def _check_times(offer: Offer, now: datetime, problems: list[Problem]) -> None:
    for name, moment in (("send_at", offer.send_at), ("expires_at", offer.expires_at)):
        if moment is not None and moment > now + MAX_AHEAD:
            detail = f"{name} is more than {MAX_AHEAD.days} days away"
            problems.append(Problem(f"{offer.pointer}/{name}", "too_late", detail))
    if offer.expires_at is None:
        return
    if offer.expires_at <= now:
        problems.append(
            Problem(f"{offer.pointer}/expires_at", "too_early", "expires_at is in the past")
        )
    elif offer.send_at is not None and offer.expires_at <= offer.send_at:
        detail = "expires_at is not after send_at"
        problems.append(Problem(f"{offer.pointer}/expires_at", "too_early", detail))


def _recipients(
    offer: Offer, account: Account, problems: list[Problem]
) -> tuple[list[Recipient], list[Rejected]]:
    limit = min(account.max_recipients or MAX_RECIPIENTS, MAX_RECIPIENTS)
    if len(offer.recipients) > limit:
        detail = f"{len(offer.recipients)} recipients; the account may name {limit}"
        problems.append(Problem(f"{offer.pointer}/recipients", "too_many_recipients", detail))
        return [], []
    kept: list[Recipient] = []
    rejected: list[Rejected] = []
    first: dict[str, int] = {}
    for number, recipient in enumerate(offer.recipients):
        address = recipient.address
        if address is None:
            rejected.append(Rejected(number, recipient.text, "malformed_address", recipient.fault))
            continue
        before = first.setdefault(address.key, number)
        if before != number:
            detail = f"the address stands in the message already, as recipient {before}"
            rejected.append(Rejected(number, str(address), "duplicate", detail))
        else:
            kept.append(Recipient(number, address, recipient.dsn))
    if not kept:
        pointers = [recipient.pointer for recipient in offer.recipients]
        problems += [Problem(pointers[r.number], r.code, r.detail) for r in rejected[:100]]
        if not rejected:
            problems.append(
                Problem(f"{offer.pointer}/recipients", "required", "there is no recipient")
            )
    return kept, rejected


def _check_from(
    offer: Offer, domain: str, policy: PolicySnapshot, account: Account, problems: list[Problem]
) -> None:
    if not may_use_domain(policy, account_id=account.id, domain=domain):
        place = "from" if offer.parts is not None else "raw"
        detail = f"{domain} is no sending domain of the account"
        problems.append(Problem(f"{offer.pointer}/{place}", "from_domain_not_allowed", detail))


def _content(offer: Offer, *, message_id: UUID, now: datetime) -> Content:
    if offer.parts is not None:
        return build(offer.parts, message_id=message_id, date=now)
    raw = offer.trace + (offer.raw or b"")
    return repair(raw, message_id=message_id, date=now, pointer=f"{offer.pointer}/raw")


def _check_size(offer: Offer, content: Content, account: Account, problems: list[Problem]) -> None:
    """Look at what the client sent, as SMTP counts it: what we add to it is not its own."""
    size = len(content.content if offer.raw is None else to_crlf(offer.raw))
    limit = account.max_message_bytes
    if limit and size > limit:
        place = "/raw" if offer.raw is not None else ""
        detail = f"the message takes {size} octets; the account may send {limit}"
        problems.append(Problem(f"{offer.pointer}{place}", "too_large", detail))

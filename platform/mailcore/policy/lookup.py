"""What the policy says in one case: default < ISP < sender < source.

Gives    default_strategy, strategy_for, tls_mode_for, domain_tls_for, presented_domain,
         return_path_domain, shares_transactions, sending_domain_for, dkim_keys_for,
         may_use_domain, may_use_sender
Takes    a snapshot and the keys of the case
Raises   nothing, but where it says so; a key that is in no row is as if nothing had been said
Follows  design.md sections 3 and 6. Retry and default rules are chosen in shaping/retry.py
"""

from __future__ import annotations

from mailcore.policy.model import (
    DkimKey,
    DomainTls,
    PolicySnapshot,
    SendingDomain,
    Source,
    Strategy,
)
from mailcore.policy.words import DomainType, ReturnPathMode, TlsMode

# What holds where an operator has written no strategy at all: the reference's 60:60.
BUILT_IN_STRATEGY = Strategy(
    id=0,
    name="built-in",
    connections=1,
    messages_per_connection=60,
    connection_attempts=1,
    interval_s=60.0,
)


def default_strategy(policy: PolicySnapshot) -> Strategy:
    """Return the strategy of whatever has none."""
    return policy.strategies.get(policy.default_strategy_id, BUILT_IN_STRATEGY)


def strategy_for(
    policy: PolicySnapshot, *, sender_id: int, isp_id: int, source_id: int
) -> Strategy:
    """Return the speed of a sender from a source to an ISP.

    The source's own strategy in the sender's pool, else the sender's for this ISP, else the
    sender's, else the ISP's, else the system's.
    """
    chosen = 0
    sender = policy.senders.get(sender_id)
    if sender is not None:
        pool = policy.pools.get(sender.pool_id)
        members = pool.members if pool is not None else ()
        own = (member.strategy_id for member in members if member.source_id == source_id)
        chosen = next(own, 0)
        chosen = chosen or dict(sender.isp_strategies).get(isp_id, 0) or sender.strategy_id
    isp = policy.isps.get(isp_id)
    if not chosen and isp is not None:
        chosen = isp.strategy_id
    return policy.strategies.get(chosen) or default_strategy(policy)


def tls_mode_for(policy: PolicySnapshot, *, sender_id: int, strategy: Strategy) -> TlsMode:
    """Return how a sender's mail travels: the stricter of its own word and the strategy's."""
    sender = policy.senders.get(sender_id)
    if sender is not None and sender.tls is TlsMode.REQUIRED:
        return TlsMode.REQUIRED
    return strategy.tls


def domain_tls_for(policy: PolicySnapshot, *, domain: str) -> DomainTls | None:
    """Return the operators' word on TLS for a recipient domain, if there is one.

    The domain's own row, else that of the longest suffix (`.example.com` is all below it).
    """
    rows = policy.domain_tls
    if not rows:
        return None
    found = rows.get(domain)
    rest = domain
    while found is None and rest:
        rest = rest.partition(".")[2]
        found = rows.get(f".{rest}") if rest else None
    return found


def presented_domain(
    policy: PolicySnapshot, *, sender_id: int, header_from: str, source: Source
) -> str:
    """Return the domain a sender presents itself as (reference §3.1, sender domain type)."""
    sender = policy.senders.get(sender_id)
    if sender is None or sender.domain_type is DomainType.FROM_HEADER:
        return header_from
    if sender.domain_type is DomainType.FIXED and sender.fixed_domain:
        return sender.fixed_domain
    return source.ehlo_name


def return_path_domain(policy: PolicySnapshot, *, sender_id: int, header_from: str) -> str:
    """Return where bounces of this mail return to; empty: nowhere of ours.

    The sender's, else the sending domain's.
    """
    sender = policy.senders.get(sender_id)
    if sender is not None and sender.return_path_domain:
        return sender.return_path_domain
    sending = policy.sending_domains.get(header_from)
    return sending.return_path_domain if sending is not None else ""


def shares_transactions(policy: PolicySnapshot, *, sender_id: int) -> bool:
    """Whether recipients of one message of this sender may share a transaction."""
    sender = policy.senders.get(sender_id)
    return sender is not None and sender.return_path_mode is ReturnPathMode.PER_MESSAGE


def sending_domain_for(
    policy: PolicySnapshot, *, account_id: int, domain: str
) -> SendingDomain | None:
    """Return the sending domain if the account may use it as From domain, else None.

    The domain itself must be listed: a parent that is listed opens no subdomain.
    """
    found = policy.sending_domains.get(domain.lower())
    return found if found is not None and account_id in found.account_ids else None


def dkim_keys_for(
    policy: PolicySnapshot, *, sender_id: int, header_from: str
) -> tuple[DkimKey, ...]:
    """Return the keys that sign a sender's mail From this domain: the domain's, then the sender's.

    The first are what DMARC looks at (RFC 7489 §3.1.1). Raises LookupError for a key that is in no
    row.
    """
    sending = policy.sending_domains.get(header_from)
    sender = policy.senders.get(sender_id)
    ids = (
        *(sending.dkim_key_ids if sending is not None else ()),
        *(sender.dkim_key_ids if sender is not None else ()),
    )
    return tuple(policy.dkim_keys[key_id] for key_id in dict.fromkeys(ids))


def may_use_domain(policy: PolicySnapshot, *, account_id: int, domain: str) -> bool:
    """Whether the account may send From this domain."""
    return sending_domain_for(policy, account_id=account_id, domain=domain) is not None


def may_use_sender(policy: PolicySnapshot, *, account_id: int, sender_id: int) -> bool:
    """Whether the account may send through this sender."""
    sender = policy.senders.get(sender_id)
    return sender is not None and account_id in sender.account_ids

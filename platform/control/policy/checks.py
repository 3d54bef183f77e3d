"""What only all rows together show to be wrong.

Gives    check(snapshot)
Raises   PolicyRefused naming row, field and reason
"""

from __future__ import annotations

from django.db import connection

from mailcore.address import parse_domain
from mailcore.classify.replies import compile_patterns
from mailcore.errors import AddressError, PolicyRefused
from mailcore.policy.model import PolicySnapshot
from mailcore.policy.words import DomainType, RelayAuth


def check(policy: PolicySnapshot) -> None:
    """Refuse a snapshot that a worker could not act on."""
    _accounts(policy)
    _senders(policy)
    _relays(policy)
    _isps(policy)
    _rules(policy)
    _domains(policy)
    _keys(policy)
    compile_patterns(policy.bounce_patterns)


def _accounts(policy: PolicySnapshot) -> None:
    for account in policy.accounts.values():
        if not account.default_sender_id:
            continue
        sender = policy.senders.get(account.default_sender_id)
        if sender is None:
            _refuse(f"account {account.id}", "default_sender", "this sender is deleted")
        elif account.id not in sender.account_ids:
            reason = f"sender {sender.id} ({sender.name}) is not assigned to the account"
            _refuse(f"account {account.id}", "default_sender", reason)


def _senders(policy: PolicySnapshot) -> None:
    for sender in policy.senders.values():
        row = f"sender {sender.id}"
        pool = policy.pools.get(sender.pool_id)
        if pool is None:
            _refuse(row, "pool", f"{sender.name} has no pool: it has no address to send from")
            continue
        members = (policy.sources.get(one.source_id) for one in pool.members if one.weight > 0)
        if not any(source is not None and source.is_active for source in members):
            _refuse(row, "pool", f"pool {pool.id} ({pool.name}) has no active source with a weight")
        if sender.domain_type is DomainType.FIXED and not sender.fixed_domain:
            _refuse(row, "fixed_domain", "the domain to present is not given")


def _relays(policy: PolicySnapshot) -> None:
    """Every login must have its secret; which secrets are there is all that is asked."""
    logins = [relay for relay in policy.relays.values() if relay.auth is not RelayAuth.NONE]
    there = _kept([relay.secret_ref for relay in logins])
    for relay in logins:
        if relay.secret_ref not in there:
            reason = f"the password for the relay {relay.host} is not in the vault"
            _refuse(f"sender {relay.sender_id}", "relay_password", reason)


def _isps(policy: PolicySnapshot) -> None:
    owner: dict[tuple[str, str], int] = {}
    tokens = {node.fbl_header.lower(): node.name for node in policy.nodes.values()}
    for isp in policy.isps.values():
        for name in (*(name for name, _ in isp.add_headers), *isp.delete_headers):
            if (node := tokens.get(name.lower())) is not None:
                reason = f"{name} carries the message token on node {node}"
                _refuse(f"ISP {isp.id}", "headers", reason)
        if isp.is_one_site and not isp.mx_suffixes:
            _refuse(f"ISP {isp.id}", "is_one_site", "one site needs an MX suffix to go by")
        for field, values in (("domains", isp.domains), ("mx_suffixes", isp.mx_suffixes)):
            for value in values:
                _check_domain(f"ISP {isp.id}", field, value)
                other = owner.setdefault((field, value), isp.id)
                if other != isp.id:
                    _refuse(f"ISP {isp.id}", field, f"{value} belongs to ISP {other} already")


def _rules(policy: PolicySnapshot) -> None:
    if policy.strategies and not policy.default_strategy_id:
        _refuse("strategies", "is_system", "the system's strategy is missing: run `manage.py seed`")
    for strategy in policy.strategies.values():
        if strategy.interval_s <= 0:
            _refuse(f"strategy {strategy.id}", "interval_s", "it must be more than 0")
    for rule in policy.retry_rules.values():
        if rule.interval_s <= 0:
            _refuse(f"retry rule {rule.id}", "interval_s", "it must be more than 0")


def _domains(policy: PolicySnapshot) -> None:
    for domain in policy.sending_domains.values():
        _check_domain(f"sending domain {domain.id}", "domain", domain.domain)
    for source in policy.sources.values():
        if source.node not in policy.nodes:
            _refuse(f"source {source.id}", "node", f"there is no node {source.node}")
        _check_domain(f"source {source.id}", "ehlo_name", source.ehlo_name)


def _keys(policy: PolicySnapshot) -> None:
    """Every key that signs must be in the vault; which secrets are there is all that is asked."""
    there = _kept([key.secret_ref for key in policy.dkim_keys.values()])
    for key in policy.dkim_keys.values():
        if key.secret_ref not in there:
            name = f"{key.selector}._domainkey.{key.domain}"
            _refuse(f"DKIM key {key.id}", "key", f"the private key of {name} is not in the vault")


def _kept(refs: list[str]) -> set[str]:
    """Return which of these secrets are in the vault."""
    if not refs:
        return set()
    with connection.cursor() as cursor:
        cursor.execute("SELECT ref FROM vault_secret WHERE ref = ANY(%s)", (refs,))
        return {row[0] for row in cursor.fetchall()}


def _check_domain(row: str, field: str, value: str) -> None:
    try:
        parse_domain(value)
    except AddressError as exc:
        raise PolicyRefused(row=row, field=field, reason=str(exc)) from exc


def _refuse(row: str, field: str, reason: str) -> None:
    raise PolicyRefused(row=row, field=field, reason=reason)

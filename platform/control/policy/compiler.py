"""Rows to snapshot: everything that decides how mail is sent, checked as a whole.

Gives    compile_policy() -> PolicySnapshot (revision 0: the store numbers it)
Takes    the rows as the caller's transaction sees them; about twenty queries, whatever their number
Raises   PolicyRefused naming row, field and reason
Follows  design.md section 6; `mailcore.policy.model` for names and units

A single row is checked when it is saved (full_clean); here is what only all of them together show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.db import models

from control.accounts.choices import ReportsByMail
from control.accounts.models import Account
from control.domains.models import DkimKey, SendingDomain
from control.mailboxes.models import Mailbox
from control.mta.choices import HeaderAction
from control.mta.models import (
    BouncePattern,
    DefaultRule,
    DomainTls,
    Isp,
    IspDomain,
    IspHeader,
    Pool,
    PoolMember,
    RetryRule,
    Strategy,
)
from control.nodes.models import Node, Source
from control.policy import checks
from control.senders.models import Sender, SenderIspStrategy
from mailcore.outcome import BounceClass, BounceType
from mailcore.policy import model, words

SYSTEM_STRATEGY = "60:60"


def compile_policy() -> model.PolicySnapshot:
    """Return what the rows mean, or raise PolicyRefused."""
    snapshot = model.PolicySnapshot(
        revision=0,
        accounts=_accounts(),
        senders=_senders(),
        relays=_relays(),
        sending_domains=_sending_domains(),
        pools=_pools(),
        sources=_sources(),
        nodes=_nodes(),
        isps=_isps(),
        strategies=_strategies(),
        retry_rules=_retry_rules(),
        default_rules=_default_rules(),
        bounce_patterns=_bounce_patterns(),
        dkim_keys=_dkim_keys(),
        mailboxes=_mailboxes(),
        default_strategy_id=_default_strategy_id(),
        domain_tls=_domain_tls(),
    )
    checks.check(snapshot)
    return snapshot


def _accounts() -> dict[int, model.Account]:
    return {
        row.pk: model.Account(
            id=row.pk,
            name=row.login_name,
            is_active=row.is_active,
            default_sender_id=row.default_sender_id or 0,
            lifetime_s=float(row.lifetime_s),
            max_message_bytes=row.max_message_bytes,
            max_recipients=row.max_recipients,
            mails_reports=row.reports_by_mail == ReportsByMail.DSN,
        )
        for row in Account.objects.order_by("pk")
    }


def _senders() -> dict[int, model.Sender]:
    accounts = _through(Sender.accounts.through, "sender_id", "account_id")
    signing = Sender.dkim_keys.through._default_manager.filter(dkimkey__is_active=True)
    keys = _grouped(signing.order_by("dkimkey_id").values_list("sender_id", "dkimkey_id"))
    speeds: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in SenderIspStrategy.objects.order_by("isp_id"):
        speeds[row.sender_id].append((row.isp_id, row.strategy_id))
    return {
        row.pk: model.Sender(
            id=row.pk,
            name=row.name,
            account_ids=accounts[row.pk],
            pool_id=row.pool_id or 0,
            strategy_id=row.strategy_id or 0,
            default_rule_id=row.default_rule_id or 0,
            domain_type=words.DomainType(row.domain_type),
            fixed_domain=row.fixed_domain,
            return_path_domain=row.return_path_domain,
            isp_strategies=tuple(speeds[row.pk]),
            tls=words.TlsMode(row.tls),
            return_path_mode=words.ReturnPathMode(row.return_path_mode),
            dkim_key_ids=tuple(keys[row.pk]),
        )
        for row in Sender.objects.filter(is_deleted=False).order_by("pk")
    }


def _relays() -> dict[int, model.Relay]:
    return {
        row.pk: model.Relay(
            sender_id=row.pk,
            host=row.relay_host,
            port=row.relay_port,
            tls=words.RelayTls(row.relay_tls),
            verifies=row.relay_verifies,
            auth=words.RelayAuth(row.relay_auth),
            login=row.relay_login,
            secret_ref=row.relay_secret_ref,
            allows_clear=row.relay_allows_clear,
            asks_reports=row.relay_asks_reports,
        )
        for row in Sender.objects.filter(is_deleted=False, uses_relay=True).order_by("pk")
    }


def _sending_domains() -> dict[str, model.SendingDomain]:
    accounts = _through(SendingDomain.accounts.through, "sendingdomain_id", "account_id")
    keys: dict[int, list[int]] = defaultdict(list)
    for pk, domain_id in DkimKey.objects.filter(is_active=True).values_list(
        "pk", "sending_domain_id"
    ):
        keys[domain_id].append(pk)
    return {
        row.domain: model.SendingDomain(
            id=row.pk,
            domain=row.domain,
            account_ids=accounts[row.pk],
            return_path_domain=row.return_path_domain,
            dkim_key_ids=tuple(sorted(keys[row.pk])),
        )
        for row in SendingDomain.objects.order_by("pk")
    }


def _dkim_keys() -> dict[int, model.DkimKey]:
    rows = DkimKey.objects.filter(is_active=True).select_related("sending_domain", "key")
    return {
        row.pk: model.DkimKey(
            id=row.pk,
            domain=row.sending_domain.domain,
            selector=row.selector,
            algorithm=row.key.algorithm,
            secret_ref=row.key.secret_ref,
        )
        for row in rows.order_by("pk")
    }


def _mailboxes() -> dict[int, model.Mailbox]:
    return {
        row.pk: model.Mailbox(
            id=row.pk,
            name=row.name,
            host=row.host,
            port=row.port,
            login=row.login,
            secret_ref=row.secret_ref,
            protocol=words.MailboxProtocol(row.protocol),
            tls=words.MailboxTls(row.tls),
            purpose=words.MailboxPurpose(row.purpose),
            account_id=row.account_id or 0,
            poll_interval_s=float(row.poll_interval_s),
            deletes_after_reading=row.deletes_after_reading,
        )
        for row in Mailbox.objects.filter(is_active=True).order_by("pk")
    }


def _pools() -> dict[int, model.Pool]:
    members: dict[int, list[model.PoolMember]] = defaultdict(list)
    for row in PoolMember.objects.order_by("source_id"):
        members[row.pool_id].append(
            model.PoolMember(row.source_id, row.weight, row.strategy_id or 0)
        )
    return {
        row.pk: model.Pool(row.pk, row.name, tuple(members[row.pk]), row.domain)
        for row in Pool.objects.order_by("pk")
    }


def _sources() -> dict[int, model.Source]:
    return {
        row.pk: model.Source(row.pk, row.node.name, row.address, row.ehlo_name, row.is_active)
        for row in Source.objects.select_related("node").order_by("pk")
    }


def _nodes() -> dict[str, model.Node]:
    return {
        row.name: model.Node(
            id=row.pk,
            name=row.name,
            dns_timeout_s=float(row.dns_timeout_s),
            dns_cache_max_s=float(row.dns_cache_max_s),
            connect_timeout_s=float(row.connect_timeout_s),
            spool_retention_s=float(row.spool_retention_s),
            spool_warn_bytes=row.spool_warn_mb * 2**20,
            spool_stop_bytes=row.spool_stop_mb * 2**20,
            fbl_header=row.fbl_header,
            admin_email=row.admin_email,
            logs_replies=row.logs_replies,
            uses_dane=row.uses_dane,
            uses_mta_sts=row.uses_mta_sts,
        )
        for row in Node.objects.order_by("pk")
    }


def _isps() -> dict[int, model.Isp]:
    domains = _grouped(IspDomain.objects.order_by("domain").values_list("isp_id", "domain"))
    added: dict[int, list[tuple[str, str]]] = defaultdict(list)
    deleted: dict[int, list[str]] = defaultdict(list)
    for header in IspHeader.objects.order_by("pk"):
        if header.action == HeaderAction.ADD:
            added[header.isp_id].append((header.name, header.value))
        else:
            deleted[header.isp_id].append(header.name)
    # The catch-all goes by 0, which is what routing says of a domain that is in no ISP.
    return {
        (0 if row.is_catch_all else row.pk): model.Isp(
            id=0 if row.is_catch_all else row.pk,
            name=row.name,
            domains=tuple(domains[row.pk]),
            mx_suffixes=tuple(row.mx_suffixes),
            strategy_id=row.strategy_id or 0,
            retry_rule_id=row.retry_rule_id or 0,
            is_one_site=row.is_one_site,
            add_headers=tuple(added[row.pk]),
            delete_headers=tuple(deleted[row.pk]),
            encoding_global=words.Encoding(row.encoding_global),
            encoding_html=words.Encoding(row.encoding_html),
            encoding_text=words.Encoding(row.encoding_text),
        )
        for row in Isp.objects.order_by("pk")
    }


def _strategies() -> dict[int, model.Strategy]:
    return {
        row.pk: model.Strategy(
            id=row.pk,
            name=row.name,
            connections=row.connections,
            messages_per_connection=row.messages_per_connection,
            connection_attempts=row.connection_attempts,
            interval_s=float(row.interval_s),
            helo=words.HeloMode(row.helo),
            tls=words.TlsMode(row.tls),
            drop=row.drop,
        )
        for row in Strategy.objects.order_by("pk")
    }


def _default_strategy_id() -> int:
    """The system's strategy: renamed it stays the system's, so it is found by that."""
    system = Strategy.objects.filter(is_system=True).order_by("pk")
    return next(iter(system.values_list("pk", flat=True)[:1]), 0)


def _retry_rules() -> dict[int, model.RetryRule]:
    return {
        row.pk: model.RetryRule(
            id=row.pk,
            name=row.name,
            mode=words.RetryMode(row.mode),
            retries=row.retries,
            interval_s=float(row.interval_s),
            type=words.RetryType(row.type),
            exponent=float(row.exponent),
            random_modifier=float(row.random_modifier),
        )
        for row in RetryRule.objects.order_by("pk")
    }


def _default_rules() -> dict[int, model.DefaultRule]:
    return {
        row.pk: model.DefaultRule(
            id=row.pk,
            name=row.name,
            isp_id=row.isp_id or 0,
            priority=row.priority,
            retry_rule_id=row.retry_rule_id,
            soft_action=words.RuleAction(row.soft_action),
            hard_action=words.RuleAction(row.hard_action),
            bounce_action=words.RuleAction(row.bounce_action),
            unknown_action=words.UnknownAction(row.unknown_action),
            unknown_after_s=float(row.unknown_after_s),
        )
        for row in DefaultRule.objects.order_by("pk")
    }


def _domain_tls() -> dict[str, model.DomainTls]:
    return {
        row.domain: model.DomainTls(
            id=row.pk,
            domain=row.domain,
            level=words.DomainTlsLevel(row.level),
            names=tuple(row.names),
        )
        for row in DomainTls.objects.order_by("pk")
    }


def _bounce_patterns() -> tuple[model.BouncePattern, ...]:
    return tuple(
        model.BouncePattern(
            id=row.pk,
            name=row.name,
            isp_id=row.isp_id or 0,
            type=BounceType(row.type),
            bounce_class=BounceClass(row.bounce_class),
            pattern=row.pattern,
            message=row.message,
            position=row.position,
        )
        for row in BouncePattern.objects.filter(is_active=True).order_by("position", "pk")
    )


def _through(table: type[models.Model], key: str, value: str) -> defaultdict[int, tuple[int, ...]]:
    pairs = table._default_manager.order_by(key, value).values_list(key, value)
    return defaultdict(tuple, {one: tuple(many) for one, many in _grouped(pairs).items()})


def _grouped(pairs: Iterable[tuple[int, Any]]) -> defaultdict[int, list[Any]]:
    groups: defaultdict[int, list[Any]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups

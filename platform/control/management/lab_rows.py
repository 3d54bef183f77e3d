"""The rows of the lab: a demo company, its senders, and the lab's providers as ISPs.

Gives    create_lab_rows; read_mailboxes, which has the lab's mailboxes read where they are now;
         publish_dkim_keys, which tells the lab's DNS of the keys that sign
Takes    `lab.world`: domains, exchangers, source addresses, times in seconds
Raises   LabError when the lab cannot be told

Running it again adds what is missing and changes nothing that is there, but the mailboxes' port.
"""

from __future__ import annotations

from typing import Any, TypeVar

from control.access import Actor
from control.accounts.models import Account
from control.audit.changes import Change, policy_change
from control.domains.models import DkimKey, SendingDomain
from control.mailboxes.choices import MailboxTls, Protocol, Purpose
from control.mailboxes.models import Mailbox
from control.mailboxes.services import new_secret_ref, store_password
from control.mta.choices import Helo, KeyAlgorithm, RetryMode, RetryType
from control.mta.models import (
    DefaultRule,
    Isp,
    IspDomain,
    Key,
    Pool,
    PoolMember,
    RetryRule,
    Strategy,
)
from control.mta.services import dns_record, draw_private_key, store_key
from control.nodes.models import Node, Source
from control.rows import PolicyModel
from control.senders.models import Sender
from lab.client import LabClient
from lab.world import LabPolicy, World

R = TypeVar("R", bound=PolicyModel)
CONNECTIONS = 20
POLL_INTERVAL_S = 2.0


def create_lab_rows(world: World, *, node_name: str, actor: Actor) -> Account:
    """Add what the lab's first campaign needs; return the demo account."""
    with policy_change(actor) as change:
        strategy = _ensure(
            change,
            Strategy,
            {"name": "unlimited"},
            connections=CONNECTIONS,
            messages_per_connection=0,
            connection_attempts=0,
            interval_s=1.0,
            helo=Helo.FIXED,
        )
        rule = _rules(change, world.policy)
        pool = _pool(change, world, node_name)
        account = _ensure(
            change,
            Account,
            {"login_name": "demo"},
            title="Demo",
            lifetime_s=world.policy.lifetime_s,
        )
        sender = _ensure(
            change,
            Sender,
            {"name": "demo"},
            pool=pool,
            strategy=strategy,
            default_rule=rule,
        )
        sender.accounts.add(account)
        if account.default_sender_id is None:
            change.touch(account)
            account.default_sender = sender
            account.save(update_fields=["default_sender"])
        _domains(change, world, account, actor)
        _isps(change, world)
    return account


def _ensure(change: Change, kind: type[R], name: dict[str, Any], /, **fields: Any) -> R:
    """Return the row of this name, created with these fields if it is not there."""
    row: R | None = kind._default_manager.filter(**name).first()
    if row is None:
        row = kind(**name, **fields)
        row.full_clean()
        row.save(force_insert=True)
        change.created(row)
    return row


def _rules(change: Change, policy: LabPolicy) -> DefaultRule:
    """Delays of seconds, or a demonstration would last a day."""
    retry = _ensure(
        change,
        RetryRule,
        {"name": "lab"},
        mode=RetryMode.SAME_IP,
        type=RetryType.GEOMETRIC,
        interval_s=policy.retry_delays_s[0],
        exponent=1.5,
        retries=100,
    )
    return _ensure(
        change,
        DefaultRule,
        {"name": "lab"},
        priority=50,
        retry_rule=retry,
        unknown_after_s=policy.unknown_after_s,
    )


def _pool(change: Change, world: World, node_name: str) -> Pool:
    node = _ensure(
        change,
        Node,
        {"name": node_name},
        dns_timeout_s=world.policy.dns_timeout_s,
        dns_cache_max_s=60.0,
        connect_timeout_s=world.policy.connect_timeout_s,
    )
    pool = _ensure(change, Pool, {"name": "demo"}, domain=world.sending_domains[0])
    for host in world.sources:
        source = _ensure(
            change, Source, {"node": node, "address": host.address}, ehlo_name=host.name
        )
        _ensure(change, PoolMember, {"pool": pool, "source": source})
    return pool


def _domains(change: Change, world: World, account: Account, actor: Actor) -> None:
    for name in world.sending_domains:
        domain = _ensure(
            change, SendingDomain, {"domain": name}, return_path_domain=f"bounces.{name}"
        )
        domain.accounts.add(account)
        for algorithm, selector in ((KeyAlgorithm.RSA, "rsa1"), (KeyAlgorithm.ED25519, "ed1")):
            if DkimKey.objects.filter(sending_domain=domain, selector=selector).exists():
                continue
            key = store_key(
                Key(name=f"{selector} of {name}"), draw_private_key(algorithm), actor=actor
            )
            _ensure(change, DkimKey, {"sending_domain": domain, "selector": selector}, key=key)


def _isps(change: Change, world: World) -> None:
    for provider in world.providers:
        isp = _ensure(
            change,
            Isp,
            {"name": provider.title},
            mx_suffixes=[provider.mx_suffix],
            is_one_site=provider.has_mx_per_domain,
        )
        for hosted in provider.domains:
            if not IspDomain.objects.filter(domain=hosted.name).exists():
                _ensure(change, IspDomain, {"isp": isp, "domain": hosted.name})


def read_mailboxes(world: World, *, port: int, actor: Actor) -> None:
    """Have the lab's two mailboxes read; the lab may listen elsewhere than at its last start."""
    with policy_change(actor) as change:
        for account, purpose in (
            (world.bounces, Purpose.BOUNCES),
            (world.complaints, Purpose.COMPLAINTS),
        ):
            name = f"lab {account.user}"
            mailbox = Mailbox.objects.filter(name=name).first()
            if mailbox is None:
                mailbox = _ensure(
                    change,
                    Mailbox,
                    {"name": name},
                    purpose=purpose,
                    protocol=Protocol.POP3,
                    host="127.0.0.1",
                    port=port,
                    tls=MailboxTls.STARTTLS,
                    login=account.user,
                    secret_ref=new_secret_ref(),
                    poll_interval_s=POLL_INTERVAL_S,
                )
                store_password(mailbox, account.password)
            elif mailbox.port != port:
                change.touch(mailbox)
                mailbox.port = port
                mailbox.save(update_fields=["port"])


def publish_dkim_keys(lab: LabClient) -> int:
    """Publish the public half of every key that signs, so that receivers can verify; return how
    many. The lab forgets records when it ends, so this is done at each start."""
    keys = DkimKey.objects.filter(is_active=True).select_related("sending_domain", "key")
    for row in keys:
        name = f"{row.selector}._domainkey.{row.sending_domain.domain}"
        lab.set_record(name, "TXT", [_txt(dns_record(row.key))])
    return len(keys)


def _txt(value: str) -> str:
    """Return a TXT value as strings of at most 255 octets each (RFC 1035 §3.3.14)."""
    parts = (value[at : at + 255] for at in range(0, len(value), 255))
    return " ".join(f'"{part}"' for part in parts)

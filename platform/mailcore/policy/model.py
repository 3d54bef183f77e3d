"""The policy snapshot: operators' rows, compiled to immutable values.

Gives    PolicySnapshot and the parts it is made of
Follows  design.md section 6; reference/mta-model.md §§2-8 for names and meaning

A snapshot holds no secret (keys go by reference) and nothing that grows with recipients.
Ids are the integer keys of the rows they were compiled from. Durations are float seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailcore.outcome import BounceClass, BounceType
from mailcore.policy.words import (
    DomainTlsLevel,
    DomainType,
    Encoding,
    HeloMode,
    MailboxProtocol,
    MailboxPurpose,
    MailboxTls,
    RelayAuth,
    RelayTls,
    RetryMode,
    RetryType,
    ReturnPathMode,
    RuleAction,
    TlsMode,
    UnknownAction,
)

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Strategy:
    """Speed profile. Zero connections, messages or attempts means no limit of that kind.

    Messages per interval = connections × messages per connection × connection attempts.
    """

    id: int
    name: str
    connections: int
    messages_per_connection: int
    connection_attempts: int
    interval_s: float
    helo: HeloMode = HeloMode.PTR
    tls: TlsMode = TlsMode.OPPORTUNISTIC
    drop: bool = False

    @property
    def messages_per_interval(self) -> int:
        """The rate of one source to one site per `interval_s`; 0 is unlimited."""
        return self.connections * self.messages_per_connection * self.connection_attempts


@dataclass(frozen=True, slots=True)
class DomainTls:
    """The operators' word on TLS for one recipient domain; `names` may stand in its certificates
    in place of the host's own, one with a leading dot for all hosts below."""

    id: int
    domain: str
    level: DomainTlsLevel
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetryRule:
    """When a deferred message is tried again, and from where."""

    id: int
    name: str
    mode: RetryMode
    retries: int
    interval_s: float
    type: RetryType
    exponent: float = 2.0
    random_modifier: float = 0.0


@dataclass(frozen=True, slots=True)
class DefaultRule:
    """A delivery scenario: what is done with each kind of bounce (`isp_id` 0 = all)."""

    id: int
    name: str
    isp_id: int
    priority: int
    retry_rule_id: int
    soft_action: RuleAction = RuleAction.RETRY
    hard_action: RuleAction = RuleAction.STOP
    bounce_action: RuleAction = RuleAction.STOP
    unknown_action: UnknownAction = UnknownAction.RETRY_LATE
    unknown_after_s: float = 14400.0


@dataclass(frozen=True, slots=True)
class BouncePattern:
    """A regular expression over a reply, case-insensitive (`isp_id` 0 = all ISPs)."""

    id: int
    name: str
    isp_id: int
    type: BounceType
    bounce_class: BounceClass
    pattern: str
    message: str
    position: int


@dataclass(frozen=True, slots=True)
class Isp:
    """A mailbox provider. `mx_suffixes` roll whole MX hosts' sites into one site of the ISP."""

    id: int
    name: str
    domains: tuple[str, ...]
    mx_suffixes: tuple[str, ...] = ()
    strategy_id: int = 0
    retry_rule_id: int = 0
    is_one_site: bool = False
    add_headers: tuple[tuple[str, str], ...] = ()
    delete_headers: tuple[str, ...] = ()
    encoding_global: Encoding = Encoding.AS_SUBMITTED
    encoding_html: Encoding = Encoding.AS_SUBMITTED
    encoding_text: Encoding = Encoding.AS_SUBMITTED


@dataclass(frozen=True, slots=True)
class Source:
    """One sending identity: an address on a node, and the name it greets with."""

    id: int
    node: str
    address: str
    ehlo_name: str
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class PoolMember:
    """A source in a pool with its weight; `strategy_id` 0 = as the ISP or sender says."""

    source_id: int
    weight: int
    strategy_id: int = 0


@dataclass(frozen=True, slots=True)
class Pool:
    """A weighted set of sources."""

    id: int
    name: str
    members: tuple[PoolMember, ...]
    domain: str = ""


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A reference to a signing key: the secret itself lies in the vault under `secret_ref`."""

    id: int
    domain: str
    selector: str
    algorithm: str
    secret_ref: str


@dataclass(frozen=True, slots=True)
class Node:
    """A host of the fleet and its send-module settings (reference §2.2), seconds."""

    id: int
    name: str
    dns_timeout_s: float = 5.0
    dns_cache_max_s: float = 3600.0
    connect_timeout_s: float = 30.0
    spool_retention_s: float = 0.0
    spool_warn_bytes: int = 2 * 2**30
    spool_stop_bytes: int = 256 * 2**20
    fbl_header: str = "X-Postfleet-Token"
    admin_email: str = ""
    logs_replies: bool = False
    uses_dane: bool = True
    uses_mta_sts: bool = True


@dataclass(frozen=True, slots=True)
class Sender:
    """A delivery configuration.

    `dkim_key_ids` sign all its mail, beside the keys of each message's From domain.
    """

    id: int
    name: str
    account_ids: tuple[int, ...]
    pool_id: int
    strategy_id: int
    default_rule_id: int
    domain_type: DomainType = DomainType.FROM_HEADER
    fixed_domain: str = ""
    return_path_domain: str = ""
    isp_strategies: tuple[tuple[int, int], ...] = ()
    tls: TlsMode = TlsMode.OPPORTUNISTIC
    return_path_mode: ReturnPathMode = ReturnPathMode.PER_RECIPIENT
    dkim_key_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Relay:
    """A smart host: where all mail of one sender goes, whatever its recipients' domains say.

    Password or token lie in the vault under `secret_ref`. `verifies`: its certificate must be valid
    for `host`. `allows_clear` lets the login travel without TLS. `asks_reports`: it is asked for
    reports of failure and delay (RFC 3461), where it offers them.
    """

    sender_id: int
    host: str
    port: int
    tls: RelayTls = RelayTls.STARTTLS
    verifies: bool = True
    auth: RelayAuth = RelayAuth.NONE
    login: str = ""
    secret_ref: str = ""
    allows_clear: bool = False
    asks_reports: bool = True


@dataclass(frozen=True, slots=True)
class SendingDomain:
    """A From domain, who may use it, and the keys that sign for it."""

    id: int
    domain: str
    account_ids: tuple[int, ...]
    return_path_domain: str
    dkim_key_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """A company that sends. `lifetime_s` is how long a message may be tried.

    `mails_reports`: who sends by SMTP is told of failures by mail (RFC 3464), beside events.
    """

    id: int
    name: str
    is_active: bool
    default_sender_id: int
    lifetime_s: float
    max_message_bytes: int
    max_recipients: int
    mails_reports: bool = True


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox that is read for reports; its password lies in the vault under `secret_ref`.

    `account_id` 0 is the installation's: what it holds may be about anybody's mail.
    """

    id: int
    name: str
    host: str
    port: int
    login: str
    secret_ref: str
    protocol: MailboxProtocol = MailboxProtocol.POP3
    tls: MailboxTls = MailboxTls.TLS
    purpose: MailboxPurpose = MailboxPurpose.ALL
    account_id: int = 0
    poll_interval_s: float = 60.0
    deletes_after_reading: bool = True


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """All that decides how mail is sent, under one number."""

    revision: int
    accounts: Mapping[int, Account] = field(default_factory=dict)
    senders: Mapping[int, Sender] = field(default_factory=dict)
    sending_domains: Mapping[str, SendingDomain] = field(default_factory=dict)
    pools: Mapping[int, Pool] = field(default_factory=dict)
    sources: Mapping[int, Source] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    isps: Mapping[int, Isp] = field(default_factory=dict)
    strategies: Mapping[int, Strategy] = field(default_factory=dict)
    retry_rules: Mapping[int, RetryRule] = field(default_factory=dict)
    default_rules: Mapping[int, DefaultRule] = field(default_factory=dict)
    bounce_patterns: tuple[BouncePattern, ...] = ()
    dkim_keys: Mapping[int, DkimKey] = field(default_factory=dict)
    mailboxes: Mapping[int, Mailbox] = field(default_factory=dict)
    default_strategy_id: int = 0
    domain_tls: Mapping[str, DomainTls] = field(default_factory=dict)
    relays: Mapping[int, Relay] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

"""The world of the lab as data: who receives mail, where, in what manner, and who sends.

Gives    World, Provider, MxHost, HostedDomain, MailAccount, SourceHost, LabPolicy, Record, Fault,
         FaultKind; default_world(), wide_world(), WORLDS
Takes    nothing from outside: all names end in .test, all addresses lie in 127.0.0.0/8
Raises   ValueError for an address off loopback or a domain hosted twice
Follows  RFC 6761 (.test), RFC 7505 (null MX), RFC 5321 §5.1 (implicit MX)
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from lab.manner import (
    BounceStyle,
    Certificate,
    DrawnBy,
    Feedback,
    FullMailbox,
    Greylist,
    Manner,
    Throttle,
    TlsManner,
    late_answer,
    lose_reply,
    policy_block,
    slow_banner,
    unknown_user,
)
from lab.script import Stage

SMALL_DOMAIN_COUNT = 10


class FaultKind(Enum):
    """Ways in which a name can fail to resolve."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    NXDOMAIN = "nxdomain"
    DROP = "drop"  # no answer at all
    SLOW = "slow"  # the true answer, late
    TRUNCATED = "truncated"  # over UDP nothing but the TC flag; over TCP the true answer


@dataclass(frozen=True, slots=True)
class Fault:
    """A scripted fault of one name; `times` answers long, or until it is taken back."""

    name: str
    kind: FaultKind
    delay_s: float = 0.0
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """The whole record set of one name and type, values in presentation form."""

    name: str
    type: str
    values: tuple[str, ...]
    ttl_s: int = 60


@dataclass(frozen=True, slots=True)
class MxHost:
    """One exchanger: a name, the loopback address it listens on, its preference."""

    name: str
    address: str
    preference: int

    def __post_init__(self) -> None:
        if not ipaddress.IPv4Address(self.address).is_loopback:
            raise ValueError(f"MX host {self.name}: {self.address} is not a loopback address")


@dataclass(frozen=True, slots=True)
class HostedDomain:
    """A recipient domain and its weight in the traffic to its provider.

    Without `has_mx_set` its records are among those of the world (alias, implicit MX and the like).
    """

    name: str
    weight: float
    has_mx_set: bool = True


@dataclass(frozen=True, slots=True)
class MailAccount:
    """A mailbox of ours, to be read by POP3: `user` and `password` log in."""

    user: str
    address: str
    password: str


@dataclass(frozen=True, slots=True)
class Provider:
    """A mailbox provider: `share` is its part of realistic traffic.

    With `has_mx_per_domain` every domain has an MX name of its own under the suffix, and all names
    lead to the same hosts: one site, though no two domains share an MX set.
    """

    key: str
    title: str
    mx_suffix: str
    mx_hosts: tuple[MxHost, ...]
    domains: tuple[HostedDomain, ...]
    share: float
    manner: Manner
    feedback: Feedback | None = None
    has_mx_per_domain: bool = False


@dataclass(frozen=True, slots=True)
class SourceHost:
    """An address of ours that sends, with the name its PTR and EHLO give."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class LabPolicy:
    """Times for policy rows in the lab: seconds where the internet has minutes and hours."""

    retry_delays_s: tuple[float, ...] = (2.0, 3.0, 5.0, 10.0, 20.0)
    unknown_after_s: float = 10.0
    lifetime_s: float = 300.0
    connect_timeout_s: float = 5.0
    reply_timeout_s: float = 10.0
    dot_timeout_s: float = 20.0
    dns_timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class World:
    """Everything the lab holds. `seed` decides every share."""

    providers: tuple[Provider, ...]
    sources: tuple[SourceHost, ...]
    sending_domains: tuple[str, ...]
    records: tuple[Record, ...] = ()
    faults: tuple[Fault, ...] = ()
    policy: LabPolicy = LabPolicy()
    seed: int = 1

    @property
    def bounces(self) -> MailAccount:
        """Where reports to any return path of ours are gathered."""
        return _account("bounces", self.sending_domains)

    @property
    def complaints(self) -> MailAccount:
        """Where providers send what their users complain of."""
        return _account("complaints", self.sending_domains)

    def __post_init__(self) -> None:
        names = [d.name for p in self.providers for d in p.domains]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"domains hosted twice: {', '.join(twice)}")
        addresses = [host.address for p in self.providers for host in p.mx_hosts]
        if twice := sorted({one for one in addresses if addresses.count(one) > 1}):
            raise ValueError(f"addresses used twice: {', '.join(twice)}")

    def provider(self, key: str) -> Provider:
        """Return the provider of this key; KeyError when there is none."""
        for provider in self.providers:
            if provider.key == key:
                return provider
        raise KeyError(key)

    def provider_of_domain(self, domain: str) -> Provider | None:
        """Return who hosts a recipient domain, or None."""
        wanted = domain.lower().rstrip(".")
        for provider in self.providers:
            if any(hosted.name == wanted for hosted in provider.domains):
                return provider
        return None


def _account(user: str, sending_domains: tuple[str, ...]) -> MailAccount:
    domain = sending_domains[0] if sending_domains else "sender.test"
    return MailAccount(user, f"{user}@{domain}", f"lab-{user}")


def _hosted(key: str, also: tuple[HostedDomain, ...]) -> tuple[HostedDomain, ...]:
    """Return two big domains and a tail of small ones on the same exchangers."""
    big = (HostedDomain(f"{key}.test", 100.0), HostedDomain(f"mail.{key}.test", 50.0))
    tail = tuple(
        HostedDomain(f"shop{number:02d}.{key}-hosted.test", 1.0)
        for number in range(1, SMALL_DOMAIN_COUNT + 1)
    )
    return big + tail + also


def _exchangers(provider_key: str, network: int) -> tuple[MxHost, ...]:
    return (
        MxHost(f"mx1.{provider_key}.test", f"127.0.{network}.1", 10),
        MxHost(f"mx2.{provider_key}.test", f"127.0.{network}.2", 20),
    )


def _provider(
    key: str,
    network: int,
    share: float,
    manner: Manner,
    *also: HostedDomain,
    feedback: Feedback | None = None,
) -> Provider:
    return Provider(
        key=key,
        title=key.capitalize(),
        mx_suffix=f"{key}.test",
        mx_hosts=_exchangers(key, network),
        domains=_hosted(key, also),
        share=share,
        manner=manner,
        feedback=feedback,
    )


def _oddities() -> tuple[Record, ...]:
    """Names that are right in DNS and still hard on a sender."""
    return (
        Record("nomail.test", "MX", ("0 .",)),
        Record("nomail.test", "A", ("127.0.1.1",)),
        Record("dangling.test", "MX", ("10 gone.dangling.test.",)),
        Record("dead.test", "MX", ("10 mx.dead.test.",)),
        Record("mx.dead.test", "A", ("127.0.254.254",)),  # nobody listens there
        Record("web.test", "TXT", ('"no address, no exchanger"',)),
        Record("loop-a.test", "CNAME", ("loop-b.test.",)),
        Record("loop-b.test", "CNAME", ("loop-a.test.",)),
        # Hosted by Accepta, reached by other ways than its MX set:
        Record("implicit.test", "A", ("127.0.1.1",)),
        Record("alias.test", "CNAME", ("accepta.test.",)),
        Record("halfdead.test", "MX", ("5 mx.dead.test.", "10 mx1.accepta.test.")),
    )


def _world(providers: tuple[Provider, ...], seed: int) -> World:
    return World(
        providers=providers,
        sources=(
            SourceHost("out1.sender.test", "127.0.100.1"),
            SourceHost("out2.sender.test", "127.0.100.2"),
        ),
        sending_domains=("sender.test", "news.sender.test"),
        records=_oddities(),
        faults=(
            Fault("servfail.test", FaultKind.SERVFAIL),
            Fault("refused.test", FaultKind.REFUSED),
            Fault("drop.test", FaultKind.DROP),
        ),
        seed=seed,
    )


# Hosted by Accepta. Weight 0: mail goes there only when a test or an operator sends it.
_ODDLY_REACHED = (
    HostedDomain("xn--bcher-kva.test", 0.0),
    HostedDomain("implicit.test", 0.0, has_mx_set=False),
    HostedDomain("alias.test", 0.0, has_mx_set=False),
    HostedDomain("halfdead.test", 0.0, has_mx_set=False),
)


def default_world(*, seed: int = 1, greylist_s: float = 3.0) -> World:
    """Return three providers (accepts; greylists, then accepts; refuses a fifth), and two of us."""
    greylists = Manner(greylist=Greylist(after_s=greylist_s))
    refuses = Manner(rules=(unknown_user(0.20),), tls=TlsManner.OFFERED)
    providers = (
        _provider("accepta", 1, 0.60, Manner(tls=TlsManner.OFFERED), *_ODDLY_REACHED),
        _provider("greylisto", 2, 0.25, greylists),
        _provider("refusa", 3, 0.15, refuses),
    )
    return _world(providers, seed)


def _office(network: int, share: float, feedback: Feedback) -> Provider:
    """Return a host of companies: each domain with an MX name of its own under one suffix."""
    provider = _provider(
        "officia",
        network,
        share,
        Manner(rules=(unknown_user(0.01), policy_block(0.01)), tls=TlsManner.OFFERED),
        feedback=feedback,
    )
    return replace(provider, mx_suffix="mail.protection.officia.test", has_mx_per_domain=True)


def wide_world(
    *,
    seed: int = 1,
    greylist_s: float = 3.0,
    full_s: float = 5.0,
    stall_s: float = 6.0,
    banner_s: float = 2.0,
    throttle_per_s: float = 50.0,
    reports_after_s: float = 3.0,
) -> World:
    """Return eleven providers, each difficult in a way of its own, with reports that come late."""
    tls = TlsManner.OFFERED
    plain = Feedback(0.010, 0.003, reports_after_s)
    transcript = Feedback(0.010, 0.002, reports_after_s, BounceStyle.TRANSCRIPT)
    office = Feedback(0.015, 0.004, reports_after_s, BounceStyle.OFFICE, redacts=True)
    webmail = Feedback(0.010, 0.006, reports_after_s, BounceStyle.WEBMAIL, redacts=True)
    throttle = Throttle(throttle_per_s, burst=max(1, int(throttle_per_s)), penalty_s=1.0)
    late = (
        late_answer(Stage.MAIL, stall_s, 0.05),
        late_answer(Stage.DOT, stall_s, 0.01, drawn_by=DrawnBy.ATTEMPT),
    )
    refuses = Manner(rules=(unknown_user(0.12),), tls=tls)
    throttles = Manner(throttle=throttle, max_connections=20, tls=tls)
    greylists = Manner(greylist=Greylist(greylist_s))
    blocks = Manner(rules=(policy_block(0.10),), tls=tls)
    fills = Manner(full_mailbox=FullMailbox(full_s, share=0.20))
    expired = Manner(tls=tls, certificate=Certificate.EXPIRED)
    misnamed = Manner(rules=(slow_banner(banner_s),), tls=tls, certificate=Certificate.OTHER_NAME)
    providers = (
        _provider("accepta", 1, 0.30, Manner(tls=tls), *_ODDLY_REACHED, feedback=webmail),
        _office(2, 0.16, office),
        _provider("throtta", 3, 0.12, throttles, feedback=plain),
        _provider("greylisto", 4, 0.10, greylists, feedback=transcript),
        _provider("refusa", 5, 0.08, refuses, feedback=plain),
        _provider("blocka", 6, 0.05, blocks, feedback=transcript),
        _provider("fulla", 7, 0.05, fills, feedback=plain),
        _provider("stalla", 8, 0.04, Manner(rules=late, tls=tls), feedback=transcript),
        _provider("certa", 9, 0.04, expired, feedback=plain),
        _provider("dropa", 10, 0.03, Manner(rules=(lose_reply(0.02),), tls=tls), feedback=plain),
        _provider("slowa", 11, 0.03, misnamed, feedback=transcript),
    )
    return _world(providers, seed)


WORLDS: dict[str, Callable[..., World]] = {"default": default_world, "wide": wide_world}

"""The world of the lab as data: who receives mail, where, in what manner, and who sends.

Gives    World, Provider, MxHost, HostedDomain, SourceHost, LabPolicy, Record, Fault, FaultKind,
         default_world()
Takes    nothing from outside: all names end in .test, all addresses lie in 127.0.0.0/8
Raises   ValueError for an address off loopback or a domain hosted twice
Follows  RFC 6761 (.test), RFC 7505 (null MX), RFC 5321 §5.1 (implicit MX)
"""

import ipaddress
from dataclasses import dataclass
from enum import Enum

from lab.manner import Greylist, Manner, TlsManner, unknown_user

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
class Provider:
    """A mailbox provider: `share` is its part of realistic traffic."""

    key: str
    title: str
    mx_suffix: str
    mx_hosts: tuple[MxHost, ...]
    domains: tuple[HostedDomain, ...]
    share: float
    manner: Manner


@dataclass(frozen=True, slots=True)
class SourceHost:
    """An address of ours that sends, with the name its PTR and EHLO give."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class LabPolicy:
    """Times for policy rows in the lab: seconds where the internet has minutes and hours."""

    retry_delays_s: tuple[float, ...] = (2.0, 3.0, 5.0, 10.0, 20.0)
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
    key: str, network: int, share: float, manner: Manner, *also: HostedDomain
) -> Provider:
    return Provider(
        key=key,
        title=key.capitalize(),
        mx_suffix=f"{key}.test",
        mx_hosts=_exchangers(key, network),
        domains=_hosted(key, also),
        share=share,
        manner=manner,
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


def default_world(*, seed: int = 1, greylist_s: float = 3.0) -> World:
    """Return three providers (accepts; greylists, then accepts; refuses a fifth), and two of us."""
    # Weight 0: mail goes there only when a test or an operator sends it.
    oddly_reached = (
        HostedDomain("xn--bcher-kva.test", 0.0),
        HostedDomain("implicit.test", 0.0, has_mx_set=False),
        HostedDomain("alias.test", 0.0, has_mx_set=False),
        HostedDomain("halfdead.test", 0.0, has_mx_set=False),
    )
    return World(
        providers=(
            _provider("accepta", 1, 0.60, Manner(tls=TlsManner.OFFERED), *oddly_reached),
            _provider("greylisto", 2, 0.25, Manner(greylist=Greylist(after_s=greylist_s))),
            _provider(
                "refusa", 3, 0.15, Manner(rules=(unknown_user(0.20),), tls=TlsManner.OFFERED)
            ),
        ),
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

"""From what DNS says of a domain to the site its mail goes to, and the order of its hosts.

Gives    DnsStatus, MxHost, MxAnswer, AddressAnswer (what a resolver answers); Site, IspIndex,
         site_of, has_many_hosts, relay_site, plan_hosts, shuffled
Takes    an answer, the policy's ISPs, a random draw
Raises   ValueError for an answer that names no host: there is no site to go to
Follows  RFC 5321 §5.1 (MX, order, implicit MX), RFC 7505 (null MX); design.md section 3 step 2

A site name stays the same while the MX set does, whatever the order, case or preferences in which
DNS gives it: limits, lanes and statistics are kept under it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TypeVar

from mailcore.policy.model import Isp, Relay

MAX_SITE_NAME = 200
_HASH_CHARACTERS = 16
_ISP = "isp:"
T = TypeVar("T")


class DnsStatus(Enum):
    """What DNS said; `TEMPORARY` is SERVFAIL, REFUSED or no answer in time."""

    OK = "ok"
    NO_DOMAIN = "no_domain"
    NO_DATA = "no_data"
    NULL_MX = "null_mx"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class MxHost:
    """One exchanger: its preference and its name in A-labels."""

    preference: int
    name: str


@dataclass(frozen=True, slots=True)
class MxAnswer:
    """Where a domain's mail goes. An implicit MX (RFC 5321 §5.1) is one host of preference 0.

    `is_secure`: the resolver says that it checked the answer by DNSSEC. `canonical` is the domain
    behind the aliases.
    """

    status: DnsStatus
    hosts: tuple[MxHost, ...] = ()
    ttl_s: float = 60.0
    is_implicit: bool = False
    detail: str = ""
    is_secure: bool = False
    canonical: str = ""


@dataclass(frozen=True, slots=True)
class AddressAnswer:
    """The addresses of a host, IPv6 and IPv4, as `is_secure` by DNSSEC.

    `canonical` is the host behind the aliases. `is_alias_secure`: the host's own alias is secure,
    whatever it leads to.
    """

    status: DnsStatus
    addresses: tuple[str, ...] = ()
    ttl_s: float = 60.0
    detail: str = ""
    is_secure: bool = False
    canonical: str = ""
    is_alias_secure: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """All domains that share an MX set (or an ISP's MX suffix). `isp_id` 0 is no known ISP."""

    name: str
    isp_id: int = 0


def _host(name: str) -> str:
    return name.strip().rstrip(".").lower()


class IspIndex:
    """The ISPs of a policy by recipient domain and by MX suffix; built once per snapshot."""

    __slots__ = ("_by_domain", "_by_suffix")

    def __init__(self, isps: Iterable[Isp]) -> None:
        self._by_domain: dict[str, Isp] = {}
        self._by_suffix: dict[str, Isp] = {}
        # The lowest id wins where two claim the same name, so that the answer never flickers.
        for isp in sorted(isps, key=lambda isp: isp.id):
            for domain in isp.domains:
                self._by_domain.setdefault(_host(domain), isp)
            for suffix in isp.mx_suffixes:
                self._by_suffix.setdefault(_host(suffix).lstrip("*."), isp)

    def of_domain(self, domain: str) -> Isp | None:
        """Return the ISP that lists this recipient domain."""
        return self._by_domain.get(_host(domain))

    def of_host(self, name: str) -> Isp | None:
        """Return the ISP with the longest MX suffix, in whole labels, of this host."""
        labels = _host(name)
        while labels:
            isp = self._by_suffix.get(labels)
            if isp is not None:
                return isp
            labels = labels.partition(".")[2]
        return None


def _site_name(hosts: Iterable[str]) -> str:
    name = ",".join(sorted(set(hosts)))
    if len(name) <= MAX_SITE_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{name[: MAX_SITE_NAME - _HASH_CHARACTERS - 1]}~{digest}"


def site_of(domain: str, answer: MxAnswer, isps: IspIndex) -> Site:
    """Return the site of a domain's mail.

    An ISP's suffix is one site only for domains whose hosts are all under it: a session of the
    site may carry any of its domains, and a foreign backup host would refuse the others.
    """
    hosts = [_host(host.name) for host in answer.hosts]
    if not hosts:
        raise ValueError(f"{domain}: {answer.status.value} names no host")
    owners = [isps.of_host(host) for host in hosts]
    best = min(zip(answer.hosts, owners, strict=True), key=lambda pair: pair[0].preference)
    by_suffix = best[1]
    isp = isps.of_domain(domain) or by_suffix
    if (
        by_suffix is not None
        and by_suffix.is_one_site
        and all(owner is by_suffix for owner in owners)
    ):
        suffix = _host(by_suffix.mx_suffixes[0]).lstrip("*.")
        name = f"{_ISP}{suffix}"[:MAX_SITE_NAME]
    else:
        name = _site_name(hosts)
    return Site(name, isp.id if isp is not None else 0)


def has_many_hosts(site: str) -> bool:
    """Whether a site is that of an ISP's suffix: its domains need not share a host."""
    return site.startswith(_ISP)


def relay_site(relay: Relay, domain: str, isps: IspIndex) -> Site:
    """Return the site of mail that goes through a relay.

    One for each sender, so that a session never carries mail under another's login, and for each
    ISP, so that its holds, patterns and speeds count for relayed mail too.
    """
    isp = isps.of_domain(domain)
    end = f":{relay.port}/{relay.sender_id}" + (f"/{isp.id}" if isp is not None else "")
    return Site(f"relay:{relay.host}"[: MAX_SITE_NAME - len(end)] + end, isp.id if isp else 0)


def plan_hosts(answer: MxAnswer, draw: float) -> tuple[MxHost, ...]:
    """Return the hosts in the order to try: by preference, equal ones as the draw falls.

    `draw` is one number from [0, 1): its digits in a falling base choose the permutation, so all
    orders of equal hosts are equally likely (RFC 5321 §5.1 asks to spread the load).
    """
    planned: list[MxHost] = []
    ordered = sorted(answer.hosts, key=lambda host: (host.preference, host.name))
    for _, equal in groupby(ordered, key=lambda host: host.preference):
        hosts, draw = _permuted(equal, draw)
        planned += hosts
    return tuple(planned)


def shuffled(items: Iterable[T], draw: float) -> tuple[T, ...]:
    """Return items that are alike in the order in which the draw falls."""
    return tuple(_permuted(items, draw)[0])


def _permuted(items: Iterable[T], draw: float) -> tuple[list[T], float]:
    """Return the items as the draw falls, and what is left of the draw."""
    if not 0.0 <= draw < 1.0:
        raise ValueError(f"a draw of {draw} is not in [0, 1)")
    left, chosen_ones = list(items), []
    while left:
        draw *= len(left)
        # Rounding may lift the last digit to the base itself.
        chosen = min(int(draw), len(left) - 1)
        draw = min(draw - chosen, 1.0 - 2**-53)
        chosen_ones.append(left.pop(chosen))
    return chosen_ones, draw

"""Which hosts and addresses of a site a session may go to, and which of them first.

Gives    Ourselves, before_us (hosts that do not lead back to us); fitting (addresses a source can
         reach); KnownHosts, NOTHING_KNOWN, dead_for_s (what is remembered of hosts that failed)
Takes    answers of DNS, names and listeners of our own, what failed before
Raises   nothing
Follows  RFC 5321 §5.1 (a host that is ourselves is left out, with all of equal or worse preference)
         and §6.3 (loops)

What is remembered of hosts puts them in order and forbids nothing: a dead one is tried last.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mailcore.routing.site import MxHost

DEAD_FIRST_S = 30.0
DEAD_MOST_S = 900.0
# So long after its time a host that failed is one that never did.
FORGET_DEAD_S = 900.0
BROKEN_TLS_S = 3600.0
_MOST_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Ourselves:
    """What other servers know us by: names, and where our own SMTP server listens.

    A listener on the unspecified address hears on each of `addresses`, and on loopback.
    """

    names: frozenset[str] = frozenset()
    listeners: frozenset[tuple[str, int]] = frozenset()
    addresses: frozenset[str] = frozenset()

    def is_name(self, host: str) -> bool:
        """Whether a host is one of ours by its name."""
        return host.rstrip(".").lower() in self.names

    def is_listener(self, address: str, port: int) -> bool:
        """Whether a connection to here would reach our own server.

        The port counts: of two programs on one address one may be ours.
        """
        if not self.listeners:
            return False
        wanted = _plain(address)
        for listener, its_port in self.listeners:
            if its_port != port:
                continue
            if _plain(listener) == wanted:
                return True
            if _is_any(listener) and (_is_here(wanted) or wanted in map(_plain, self.addresses)):
                return True
        return False


def before_us(hosts: Sequence[MxHost], own: Iterable[MxHost]) -> tuple[MxHost, ...]:
    """Return the hosts of better preference than any of those that are ourselves."""
    best = min((host.preference for host in own), default=None)
    if best is None:
        return tuple(hosts)
    return tuple(host for host in hosts if host.preference < best)


def fitting(addresses: Iterable[str], *, source_address: str) -> tuple[str, ...]:
    """Return the addresses of the source's own family: no other can be reached from it."""
    if not source_address:
        return tuple(addresses)
    is_v6 = ":" in source_address
    return tuple(address for address in addresses if (":" in address) is is_v6)


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """What the processes of a node remember: addresses that could not be reached from a source,
    with the times in a row, those among them that rest now, and hosts whose TLS is broken."""

    failures: Mapping[str, int] = field(default_factory=dict)
    dead: frozenset[str] = frozenset()
    broken_tls: frozenset[str] = frozenset()


NOTHING_KNOWN = KnownHosts()


def dead_for_s(failures: int) -> float:
    """Return how long a host rests after its `failures`-th failure in a row."""
    doublings = min(max(0, failures - 1), _MOST_DOUBLINGS)
    return min(DEAD_FIRST_S * 2.0**doublings, DEAD_MOST_S)


def _plain(address: str) -> str:
    """Return an address in the one form it is compared in; what is none as it is."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _is_here(address: str) -> bool:
    """Whether an address is this very machine; the unspecified one leads there as well."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_unspecified


def _is_any(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")).is_unspecified
    except ValueError:
        return address == "*"

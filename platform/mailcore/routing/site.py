"""From what DNS says of a domain to the site its mail goes to.

Gives    DnsStatus, MxHost, MxAnswer, AddressAnswer (what a resolver answers)
Follows  RFC 5321 §5.1 (MX, implicit MX), RFC 7505 (null MX)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
    """Where a domain's mail goes. An implicit MX (RFC 5321 §5.1) is one host of preference 0."""

    status: DnsStatus
    hosts: tuple[MxHost, ...] = ()
    ttl_s: float = 60.0
    is_implicit: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AddressAnswer:
    """The addresses of a host, IPv6 and IPv4."""

    status: DnsStatus
    addresses: tuple[str, ...] = ()
    ttl_s: float = 60.0
    detail: str = ""

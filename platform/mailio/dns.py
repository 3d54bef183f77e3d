"""DNS as the delivery path asks it: exchangers, addresses, names, TLSA and TXT records, from a
cache with limits.

Gives    DnsResolver (the port `Resolver`, and `ptr`), PtrAnswer
Takes    a name server or those of resolv.conf, limits, whether to stay on loopback
Raises   nothing once built: SERVFAIL, REFUSED, silence and nonsense are `DnsStatus.TEMPORARY`,
         so that a broken name server defers mail and never bounces it; ValueError from the
         constructor for a name server that lab mode forbids
Follows  RFC 5321 §5.1 (MX, implicit MX), RFC 7505 (null MX), RFC 2308 (negative answers),
         RFC 6840 §5.7-5.8 (AD in a question asks for it in the answer)

Equal questions in flight are asked once. Truncated answers are asked again over TCP.

An answer is *secure* if the resolver says so (AD). We check no signature ourselves: AD is worth as
much as the resolver and the way to it, so let it run on this host or in a network that is ours.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.TLSA
import dns.rdtypes.ANY.TXT
import dns.resolver
import dns.reversename
import dns.rrset

from mailcore.ports import (
    AddressAnswer,
    DnsStatus,
    MxAnswer,
    MxHost,
    Tlsa,
    TlsaAnswer,
    TxtAnswer,
)

# What fits one unfragmented packet everywhere (DNS Flag Day 2020).
_UDP_PAYLOAD = 1232
_MAX_CNAMES = 8


@dataclass(frozen=True, slots=True)
class PtrAnswer:
    """The names an address is known by."""

    status: DnsStatus
    names: tuple[str, ...] = ()
    ttl_s: float = 60.0
    detail: str = ""


Answer = TypeVar("Answer", MxAnswer, AddressAnswer, PtrAnswer, TlsaAnswer, TxtAnswer)
AnyAnswer = MxAnswer | AddressAnswer | PtrAnswer | TlsaAnswer | TxtAnswer


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How long answers are kept, whatever their TTL says, and how many of them."""

    floor_s: float = 30.0
    ceiling_s: float = 3600.0
    negative_ceiling_s: float = 300.0
    temporary_s: float = 5.0
    entries: int = 100_000


@dataclass(frozen=True, slots=True)
class _Records:
    """One question's answer before its records are read."""

    status: DnsStatus
    rrset: dns.rrset.RRset | None = None
    ttl_s: float = 0.0
    detail: str = ""
    is_secure: bool = False
    canonical: str = ""


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _system_servers() -> list[tuple[str, int]]:
    try:
        found = dns.resolver.Resolver(configure=True)
    except dns.resolver.NoResolverConfiguration:
        return [("127.0.0.1", 53)]
    return [(str(server), 53) for server in found.nameservers]


class DnsResolver:
    """Asks name servers, on the loop that calls it."""

    def __init__(
        self,
        nameserver: tuple[str, int] | None = None,
        *,
        timeout_s: float = 5.0,
        attempts: int = 2,
        limits: CacheLimits | None = None,
        questions_in_flight: int = 256,
        confine_to_loopback: bool = False,
    ) -> None:
        self._servers = [nameserver] if nameserver is not None else _system_servers()
        self._confine_to_loopback = confine_to_loopback
        if confine_to_loopback:
            for address, _ in self._servers:
                if not _is_loopback(address):
                    raise ValueError(f"lab mode: the name server {address} is not on loopback")
        self._timeout_s = timeout_s
        self._attempts = max(attempts, len(self._servers))
        self._limits = limits or CacheLimits()
        self._cache: OrderedDict[tuple[str, str], tuple[float, AnyAnswer]] = OrderedDict()
        self._in_flight: dict[tuple[str, str], asyncio.Task[AnyAnswer]] = {}
        self._gate = asyncio.Semaphore(questions_in_flight)

    def adjust(self, *, timeout_s: float, ceiling_s: float) -> None:
        """Take over a node's settings: they hold for the questions to come."""
        self._timeout_s = timeout_s
        self._limits = replace(self._limits, ceiling_s=ceiling_s)

    # -- the port

    async def mx(self, domain: str) -> MxAnswer:
        """Return the exchangers of a mail domain."""
        return await self._answer(MxAnswer, domain, self._find_mx)

    async def addresses(self, host: str) -> AddressAnswer:
        """Return the addresses of a host, IPv6 first."""
        return await self._answer(AddressAnswer, host, self._find_addresses)

    async def ptr(self, address: str) -> PtrAnswer:
        """Return the names of an address."""
        return await self._answer(PtrAnswer, address, self._find_ptr)

    async def tlsa(self, host: str, port: int) -> TlsaAnswer:
        """Return the TLSA records of a service, `_25._tcp.<host>`."""
        return await self._answer(TlsaAnswer, f"_{port}._tcp.{host}", self._find_tlsa)

    async def txt(self, name: str) -> TxtAnswer:
        """Return the texts of a name."""
        return await self._answer(TxtAnswer, name, self._find_txt)

    # -- cache

    async def _answer(
        self, kind: type[Answer], name: str, find: Callable[[str], Awaitable[Answer]]
    ) -> Answer:
        name = name.rstrip(".").lower()
        key = (kind.__name__, name)
        loop = asyncio.get_running_loop()
        kept = self._cache.get(key)
        if kept is not None and isinstance(kept[1], kind):
            left = kept[0] - loop.time()
            if left > 0:
                self._cache.move_to_end(key)
                return replace(kept[1], ttl_s=min(left, kept[1].ttl_s))
            del self._cache[key]
        task = self._in_flight.get(key)
        if task is None:
            task = loop.create_task(self._fill(key, find(name)))
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
        # The question is asked for all who wait: one who is cancelled does not end it.
        answer = await asyncio.shield(task)
        if not isinstance(answer, kind):
            raise TypeError(f"{kind.__name__} was asked, {answer!r} came")
        return answer

    async def _fill(self, key: tuple[str, str], finding: Awaitable[Answer]) -> Answer:
        answer = await finding
        answer = replace(answer, ttl_s=self._kept_for(answer.status, answer.ttl_s))
        self._cache[key] = (asyncio.get_running_loop().time() + answer.ttl_s, answer)
        while len(self._cache) > self._limits.entries:
            self._cache.popitem(last=False)
        return answer

    def _kept_for(self, status: DnsStatus, ttl_s: float) -> float:
        limits = self._limits
        if status is DnsStatus.TEMPORARY:
            return limits.temporary_s
        ceiling = limits.ceiling_s
        if status in (DnsStatus.NO_DOMAIN, DnsStatus.NO_DATA):
            ceiling = min(ceiling, limits.negative_ceiling_s)
        return min(max(ttl_s, limits.floor_s), ceiling)

    # -- answers

    async def _find_mx(self, domain: str) -> MxAnswer:
        records = await self._ask(domain, dns.rdatatype.MX)
        if records.status is DnsStatus.NO_DATA:
            return await self._implicit_mx(domain, records)
        if records.rrset is None:
            return MxAnswer(
                records.status,
                ttl_s=records.ttl_s,
                detail=records.detail,
                is_secure=records.is_secure,
            )
        hosts = [
            MxHost(record.preference, record.exchange.to_text(omit_final_dot=True).lower())
            for record in records.rrset
            if isinstance(record, dns.rdtypes.ANY.MX.MX) and record.exchange != dns.name.root
        ]
        if not hosts:
            detail = f"{domain} takes no mail (null MX)"
            return MxAnswer(DnsStatus.NULL_MX, ttl_s=records.ttl_s, detail=detail)
        hosts.sort(key=lambda host: (host.preference, host.name))
        answer = MxAnswer(DnsStatus.OK, tuple(hosts), records.ttl_s, is_secure=records.is_secure)
        return replace(answer, canonical=records.canonical)

    async def _implicit_mx(self, domain: str, records: _Records) -> MxAnswer:
        found = await self.addresses(domain)
        if found.status is DnsStatus.OK:
            ttl_s = min(found.ttl_s, records.ttl_s)
            is_secure = records.is_secure and found.is_secure
            hosts = (MxHost(0, domain),)
            own = MxAnswer(DnsStatus.OK, hosts, ttl_s, is_implicit=True, is_secure=is_secure)
            return replace(own, canonical=found.canonical)
        if found.status is DnsStatus.NO_DATA:
            detail = f"{domain} has neither MX nor address"
            return MxAnswer(DnsStatus.NO_DATA, ttl_s=records.ttl_s, detail=detail)
        return MxAnswer(found.status, ttl_s=found.ttl_s, detail=found.detail)

    async def _find_addresses(self, host: str) -> AddressAnswer:
        both = await asyncio.gather(
            self._ask(host, dns.rdatatype.AAAA), self._ask(host, dns.rdatatype.A)
        )
        addresses = tuple(
            str(record) for found in both if found.rrset is not None for record in found.rrset
        )
        if not addresses:
            # Silence on one question leaves open what the other half would have been.
            for status in (DnsStatus.TEMPORARY, DnsStatus.NO_DOMAIN, DnsStatus.NO_DATA):
                for found in both:
                    if found.status is status:
                        return AddressAnswer(status, ttl_s=found.ttl_s, detail=found.detail)
        if self._confine_to_loopback:
            for address in addresses:
                if not _is_loopback(address):
                    detail = f"lab mode: {host} has the address {address}, not on loopback"
                    return AddressAnswer(DnsStatus.TEMPORARY, detail=detail)
        is_partial = any(found.status is DnsStatus.TEMPORARY for found in both)
        ttl_s = min(found.ttl_s for found in both if found.rrset is not None)
        # An address that is not there must be denied as securely as the other one is given.
        answered = [found for found in both if found.status is not DnsStatus.TEMPORARY]
        is_secure = all(found.is_secure for found in answered)
        canonical = next(found.canonical for found in both if found.rrset is not None)
        is_alias_secure = is_secure
        if not is_secure and canonical != host:
            alias = await self._ask(host, dns.rdatatype.CNAME)
            if alias.status is DnsStatus.TEMPORARY:
                # Whether there are TLSA records to heed hangs on it.
                return AddressAnswer(DnsStatus.TEMPORARY, detail=alias.detail)
            is_alias_secure = alias.is_secure and alias.rrset is not None
        return AddressAnswer(
            DnsStatus.OK,
            addresses,
            0.0 if is_partial else ttl_s,
            is_secure=is_secure,
            canonical=canonical,
            is_alias_secure=is_alias_secure,
        )

    async def _find_ptr(self, address: str) -> PtrAnswer:
        try:
            name = dns.reversename.from_address(address).to_text()
        except (dns.exception.DNSException, ValueError):
            detail = f"{address!r} is not an address"
            return PtrAnswer(DnsStatus.NO_DOMAIN, detail=detail)
        records = await self._ask(name, dns.rdatatype.PTR)
        names = tuple(sorted(str(record).rstrip(".").lower() for record in records.rrset or ()))
        return PtrAnswer(records.status, names, records.ttl_s, records.detail)

    async def _find_tlsa(self, name: str) -> TlsaAnswer:
        records = await self._ask(name, dns.rdatatype.TLSA)
        found = tuple(
            Tlsa(int(record.usage), int(record.selector), int(record.mtype), bytes(record.cert))
            for record in records.rrset or ()
            if isinstance(record, dns.rdtypes.ANY.TLSA.TLSA)
        )
        return TlsaAnswer(
            records.status,
            found,
            is_secure=records.is_secure,
            ttl_s=records.ttl_s,
            detail=records.detail,
        )

    async def _find_txt(self, name: str) -> TxtAnswer:
        records = await self._ask(name, dns.rdatatype.TXT)
        texts = tuple(
            b"".join(record.strings).decode("utf-8", "replace")
            for record in records.rrset or ()
            if isinstance(record, dns.rdtypes.ANY.TXT.TXT)
        )
        return TxtAnswer(records.status, texts, records.ttl_s, records.detail)

    # -- questions

    async def _ask(self, name: str, rdtype: dns.rdatatype.RdataType) -> _Records:
        """Ask one question under its deadline, at server after server."""
        try:
            asked = dns.name.from_text(name)
        except (dns.exception.DNSException, ValueError) as exc:
            return _Records(DnsStatus.NO_DOMAIN, detail=f"{name!r} is no domain name: {exc}")
        what = f"{rdtype.name} {name}"
        troubles: list[str] = []
        try:
            async with self._gate, asyncio.timeout(self._timeout_s):
                for attempt in range(self._attempts):
                    server = self._servers[attempt % len(self._servers)]
                    try:
                        records = await self._exchange(asked, rdtype, server)
                    except (dns.exception.DNSException, OSError, EOFError, ValueError) as exc:
                        troubles.append(_trouble(server, exc))
                        continue
                    if records.status is not DnsStatus.TEMPORARY:
                        return records
                    troubles.append(records.detail)
        except TimeoutError:
            troubles.append(f"no answer within {self._timeout_s:g} s")
        detail = f"{what}: {'; '.join(dict.fromkeys(troubles))}"
        return _Records(DnsStatus.TEMPORARY, detail=detail)

    async def _exchange(
        self,
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        server: tuple[str, int],
        depth: int = 0,
    ) -> _Records:
        query = dns.message.make_query(name, rdtype, use_edns=0, payload=_UDP_PAYLOAD)
        query.flags |= dns.flags.AD
        response, _ = await dns.asyncquery.udp_with_fallback(
            query,
            server[0],
            timeout=self._timeout_s / self._attempts,
            port=server[1],
            ignore_unexpected=True,
            ignore_errors=True,
        )
        rcode = response.rcode()
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            detail = f"{server[0]} answers {dns.rcode.to_text(rcode)}"
            return _Records(DnsStatus.TEMPORARY, detail=detail)
        if not isinstance(response, dns.message.QueryMessage):
            return _Records(DnsStatus.TEMPORARY, detail=f"{server[0]} sent no answer")
        chain = response.resolve_chaining()
        ttl_s = float(chain.minimum_ttl)
        is_secure = bool(response.flags & dns.flags.AD)
        if rcode == dns.rcode.NXDOMAIN:
            text = name.to_text(omit_final_dot=True)
            detail = f"{text}: no such domain"
            kept_s = _negative(response, ttl_s)
            return _Records(DnsStatus.NO_DOMAIN, None, kept_s, detail, is_secure)
        canonical = chain.canonical_name.to_text(omit_final_dot=True).lower()
        if chain.answer is not None:
            return _Records(
                DnsStatus.OK, chain.answer, ttl_s, is_secure=is_secure, canonical=canonical
            )
        if chain.canonical_name != name and not response.authority and depth < _MAX_CNAMES:
            # An alias whose end the server left to us.
            end = await self._exchange(chain.canonical_name, rdtype, server, depth + 1)
            return replace(end, is_secure=is_secure and end.is_secure)
        text = name.to_text(omit_final_dot=True)
        detail = f"{text}: no {rdtype.name} record"
        kept_s = _negative(response, ttl_s)
        return _Records(DnsStatus.NO_DATA, None, kept_s, detail, is_secure)


def _negative(response: dns.message.QueryMessage, ttl_s: float) -> float:
    """RFC 2308: an answer of nothing is kept as its SOA says; without one, for no time."""
    has_soa = any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)
    return ttl_s if has_soa else 0.0


def _trouble(server: tuple[str, int], exc: BaseException) -> str:
    if isinstance(exc, dns.exception.Timeout):
        return f"{server[0]} is silent"
    return f"{server[0]}: {type(exc).__name__}: {exc}"

"""The addresses a session for a domain may go to, in the order to try them.

Takes    a feed (its source), a domain and its MX answer
Gives    Targets: `next`, `none_left`; Target; ourselves; loops_back, refusal;
         is_of_domain_alone; note_failure, note_alive
Raises   nothing: `none_left` returns the error that says why there was nothing to try
Follows  RFC 5321 §5.1 (by preference, equal ones shuffled, every address of each; not back to us)

DNS is asked host by host, as they are needed. Addresses that failed of late come after all others
(`mailcore.routing.hosts`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mailcore.outcome import Scope
from mailcore.ports import (
    ConnectFailed,
    Connection,
    DnsStatus,
    LoopsBack,
    MxAnswer,
    MxHost,
    TimedOut,
    TransportError,
)
from mailcore.reply import SmtpReply
from mailcore.routing.hosts import Ourselves, before_us, fitting
from mailcore.routing.site import has_many_hosts, plan_hosts
from mailcore.security import host_name
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job

# So many domains that wait are asked whether they have a host in common.
MOST_OTHERS = 20


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one host, and what is remembered of both."""

    host: str
    address: str
    failures: int = 0
    is_tls_broken: bool = False


def ourselves(ports: DeliverPorts) -> Ourselves:
    """Return what others know us by, under the policy in force.

    The name that a source greets with is our server's only where we have one on the port that mail
    goes to: else the exchanger of that name is another program, here or elsewhere.
    """
    sources = ports.policy.current().sources.values()
    is_heard = any(port == ports.smtp_port for _, port in ports.own_listeners)
    greeted = {source.ehlo_name for source in sources} if is_heard else set()
    return Ourselves(
        names=ports.own_names | greeted,
        listeners=ports.own_listeners,
        addresses=frozenset(source.address for source in sources),
    )


def loops_back(domain: str) -> SmtpReply:
    """Return our answer for a domain whose mail would come to ourselves."""
    return SmtpReply.local(554, "5.4.6", f"mail for {domain} loops back to us")


def refusal(domain: str, status: DnsStatus) -> SmtpReply:
    """Return our answer for a domain that takes no mail (RFC 7505 §4, RFC 3463)."""
    if status is DnsStatus.NULL_MX:
        return SmtpReply.local(556, "5.1.10", f"{domain} accepts no mail (null MX)")
    if status is DnsStatus.NO_DOMAIN:
        return SmtpReply.local(550, "5.1.2", f"the domain {domain} does not exist")
    return SmtpReply.local(550, "5.1.2", f"{domain} has neither MX nor address")


class Targets:
    """One opening's list of addresses."""

    def __init__(self, feed: Feed, domain: str, answer: MxAnswer, *, ports: DeliverPorts) -> None:
        self._ports = ports
        self._domain = domain
        self._source = feed.source.address
        self._own = ourselves(ports)
        planned = plan_hosts(answer, ports.draw())
        hosts = before_us(planned, (host for host in planned if self._own.is_name(host.name)))
        self._is_cut = len(hosts) < len(planned)
        self._groups = deque(_groups(hosts, by_preference=self._may_reach_us()))
        self._has_looked = False
        self._ready: deque[Target] = deque()
        self._dead: deque[Target] = deque()
        self._foreign = False
        self._trouble = ""

    async def next(self) -> Target | None:
        """Return the next address to try."""
        while not self._ready and self._groups:
            await self._look(self._groups.popleft())
        waiting = self._ready or self._dead
        return waiting.popleft() if waiting else None

    def none_left(self) -> TransportError:
        """Return why there was no address at all."""
        domain = self._domain
        if self._is_cut and not self._has_looked:
            return LoopsBack(loops_back(domain), scope=Scope.MESSAGE, stage="dns")
        if self._foreign:
            ours, theirs = ("IPv6", "IPv4") if ":" in self._source else ("IPv4", "IPv6")
            text = f"{domain} has {theirs} hosts alone, and the source {self._source} is {ours}"
            return _no_address("4.4.4", text, Scope.SOURCE)
        if self._trouble:
            return _no_address("4.4.3", self._trouble, Scope.SITE)
        return _no_address("4.4.4", f"no MX host of {domain} has an address", Scope.SITE)

    def _may_reach_us(self) -> bool:
        return any(port == self._ports.smtp_port for _, port in self._own.listeners)

    async def _look(self, group: Sequence[MxHost]) -> None:
        """Find the addresses of hosts of one preference, and what is remembered of them."""
        ports = self._ports
        answers = await asyncio.gather(*(ports.resolver.addresses(host.name) for host in group))
        found = [
            (host.name, address)
            for host, answer in zip(group, answers, strict=True)
            for address in answer.addresses
        ]
        if any(self._own.is_listener(address, ports.smtp_port) for _, address in found):
            # This preference leads to us, and whatever is behind it would lead here again.
            self._is_cut = True
            self._groups.clear()
            return
        self._has_looked = True
        for host, answer in zip(group, answers, strict=True):
            if answer.status is DnsStatus.TEMPORARY:
                self._trouble = answer.detail or f"{host.name}: the name servers did not answer"
        reachable = set(fitting((a for _, a in found), source_address=self._source))
        self._foreign = self._foreign or len(reachable) < len({a for _, a in found})
        await self._put([(host, address) for host, address in found if address in reachable])

    async def _put(self, found: Sequence[tuple[str, str]]) -> None:
        if not found:
            return
        hosts = list(dict.fromkeys(host for host, _ in found))
        addresses = list(dict.fromkeys(address for _, address in found))
        known = await self._ports.hosts.known(self._source, hosts=hosts, addresses=addresses)
        for host, address in found:
            failures = known.failures.get(address, 0)
            target = Target(host, address, failures, host in known.broken_tls)
            (self._dead if address in known.dead else self._ready).append(target)


async def is_of_domain_alone(
    feed: Feed, job: Job, answer: MxAnswer, error: TransportError, *, ports: DeliverPorts
) -> bool:
    """Whether a failure says nothing of the site: its hosts are those of this domain alone.

    An ISP's one site takes in whoever names a host under its suffix, be there such a host or not.
    A host that was reached speaks for the ISP. One that was not does, if nobody else waits whose
    hosts may be reached.
    """
    if not has_many_hosts(feed.path.site):
        return False
    if error.stage == "dns":
        return True
    if error.stage != "connect" or error.scope is not Scope.HOST:
        return False
    waiting = (each.row.recipient.domain for each in feed.jobs)
    others = list(dict.fromkeys(each for each in waiting if each != job.row.recipient.domain))
    found = await asyncio.gather(*(ports.resolver.mx(each) for each in others[:MOST_OTHERS]))
    hosts = {host_name(host.name) for host in answer.hosts}
    theirs = {host_name(host.name) for each in found for host in each.hosts}
    return bool(theirs) and hosts.isdisjoint(theirs)


async def note_failure(
    feed: Feed, target: Target, error: TransportError, *, ports: DeliverPorts
) -> None:
    """Remember an address that could not be reached; one that spoke to us lives."""
    is_silent = isinstance(error, TimedOut) or error.stage == "connect"
    if is_silent and error.scope is Scope.HOST:
        source = feed.source.address
        await ports.hosts.note_dead(source, target.address, failures=target.failures + 1)


async def note_alive(
    feed: Feed, target: Target, connection: Connection, *, ports: DeliverPorts
) -> None:
    """Forgive an address that was dead; whoever gives up meanwhile leaves no line open."""
    if target.failures:
        try:
            await ports.hosts.note_alive(feed.source.address, target.address)
        except BaseException:
            await connection.close()
            raise


def _groups(hosts: Sequence[MxHost], *, by_preference: bool) -> list[list[MxHost]]:
    """Hosts are looked up one by one, unless one of their equals may turn out to be us."""
    if not by_preference:
        return [[host] for host in hosts]
    return [list(equal) for _, equal in groupby(hosts, key=lambda host: host.preference)]


def _no_address(status: str, text: str, scope: Scope) -> ConnectFailed:
    return ConnectFailed(SmtpReply.local(451, status, text), scope=scope, stage="dns")

"""Route the rows that wait in unrouted lanes: domain -> MX -> site -> lane.

Takes    recipient domains, 500 at a time
Gives    route_domains: how many domains were dealt with
Raises   StoreUnavailable
Follows  RFC 5321 §5.1, RFC 7505 (null MX); design.md section 3, step 2

What DNS could not tell is a deferral of the rows with DNS's own reason. A domain that takes no
mail, or whose best host is ourselves, ends its rows with one. A held domain is not asked about: its
rows are parked.
"""

from __future__ import annotations

import asyncio

from mailcore.disposition import Rulebook, plan_unroutable
from mailcore.ports import DnsStatus, DomainRoute, MxAnswer
from mailcore.reply import SmtpReply
from mailcore.routing.hosts import before_us
from mailcore.routing.site import site_of
from workers.engines.context import DeliverPorts
from workers.engines.settle import Rules, settlement_of
from workers.engines.targets import loops_back, ourselves, refusal

DOMAINS_A_TURN = 500
QUESTIONS_AT_ONCE = 100
ROUTE_MIN_S = 60.0
ROUTE_MAX_S = 3600.0
FINISH_AT_ONCE = 500
RETRY_DNS_S = 60.0
RETRY_DNS_LAB_S = 2.0


async def route_domains(ports: DeliverPorts, rules: Rules, *, retry_s: float = RETRY_DNS_S) -> int:
    """Resolve the domains that wait, move their rows, end or postpone what cannot be routed."""
    waiting = await ports.ledger.unrouted_domains(limit=DOMAINS_A_TURN)
    holds = ports.holds.current()
    held = [domain for domain in waiting if holds.of_domain(domain) is not None]
    domains = [domain for domain in waiting if holds.of_domain(domain) is None]
    gate = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def ask(domain: str) -> MxAnswer:
        async with gate:
            return await ports.resolver.mx(domain)

    answers = await asyncio.gather(*(ask(domain) for domain in domains))
    own = ourselves(ports)
    routes = []
    for domain, answer in zip(domains, answers, strict=True):
        ours = [host for host in answer.hosts if own.is_name(host.name)]
        if ours and not before_us(answer.hosts, ours):
            await _finish(domain, loops_back(domain), rules.current(), ports)
        elif answer.status is DnsStatus.OK:
            site = site_of(domain, answer, rules.isps())
            ttl = min(max(answer.ttl_s, ROUTE_MIN_S), ROUTE_MAX_S)
            routes.append(DomainRoute(domain, site.name, site.isp_id, ttl))
        elif answer.status is DnsStatus.TEMPORARY:
            detail = answer.detail or "the name servers did not answer"
            reply = SmtpReply.local(451, "4.4.3", f"{domain}: {detail}")
            await ports.ledger.postpone_domains([domain], delay_s=retry_s, reply=reply)
        else:
            await _finish(domain, refusal(domain, answer.status), rules.current(), ports)
    if routes:
        await ports.ledger.apply_routes(routes)
    if held:
        # Last, for there may be many rows of them.
        await ports.ledger.park_domains(held)
    return len(waiting)


async def _finish(domain: str, reply: SmtpReply, rules: Rulebook, ports: DeliverPorts) -> None:
    """End all unrouted rows of a domain, in parts."""
    while True:
        rows = await ports.ledger.unrouted_rows(domain, limit=FINISH_AT_ONCE)
        if not rows:
            return
        ended = plan_unroutable(
            rows, reply=reply, rules=rules, node=ports.node, now=ports.clock.now()
        )
        await ports.ledger.settle(settlement_of(ended))

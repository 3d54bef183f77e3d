"""DANE and MTA-STS from signed DNS to the message on the wire: pass, fail, and downgrades tried.

Knot signs, Unbound checks, our resolver believes it; servers with certificates of their own take
the mail. Engines, adapters and dialogue are the product's; ledger and spool are in memory.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mailcore.bells import DrainBell
from mailcore.bells import Path as Lane
from mailcore.events import Event
from mailcore.outcome import MailClass
from mailcore.policy.model import DomainTls, PolicySnapshot
from mailcore.policy.words import DomainTlsLevel
from mailcore.security import StsPolicy
from mailio.dns import CacheLimits, DnsResolver
from mailio.smtp import SmtpConnector
from mailio.sts_cache import StsCache
from mailio.sts_fetch import StsFetcher
from tests.support.builders import NODE, policy, row
from tests.support.certificates import Authority, Shown, self_signed
from tests.support.fake_sources import RunningClock
from tests.support.fakes import world
from tests.support.https_peer import Web, page, serving_https
from tests.support.services import SignedDns
from tests.support.services.signed_dns import BOGUS, FORGED, PLAIN, SIGNED
from tests.support.smtp_peer import Gone, Heard, Peer, Script, serving
from tests.support.smtp_session import PATIENT
from tests.workers.test_drain import drained

NO_CACHE = CacheLimits(floor_s=0.0, ceiling_s=0.0, negative_ceiling_s=0.0, temporary_s=0.0)
POLICY = "version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n"
NUMBERS = itertools.count(1)


@dataclass
class Kept:
    """The fleet's store of MTA-STS policies."""

    policies: dict[str, StsPolicy] = field(default_factory=dict)

    def read(self, *, now_ms: int) -> list[StsPolicy]:
        return list(self.policies.values())

    def write(self, policy: StsPolicy) -> None:
        self.policies[policy.domain] = policy

    def forget(self, *, now_ms: int) -> None:
        return


def server(context: ssl.SSLContext | None) -> Script:
    """A server that takes everything, in clear as well; without a context it offers no STARTTLS."""

    async def script(peer: Peer) -> None:
        await peer.greet(("STARTTLS", "PIPELINING") if context is not None else ("PIPELINING",))
        while True:
            verb = (await peer.hear())[:4].upper()
            if verb == "STAR" and context is not None:
                peer.say("220 go")
                await peer.start_tls(context)
            elif verb == "DATA":
                peer.say("354 go")
                await peer.take_content()
                peer.say("250 taken")
            elif verb == "EHLO":
                peer.say("250-peer.test", "250 PIPELINING")
            elif verb == "QUIT":
                raise Gone
            else:
                peer.say("250 ok")

    return script


@dataclass
class Net:
    """The servers of one test, and we who deliver to them."""

    dns: SignedDns
    root: Authority
    directory: Path
    kept: Kept = field(default_factory=Kept)
    sts_port: int = 1
    heard: Heard = field(default_factory=Heard)

    async def send(self, domain: str, host: str, snapshot: PolicySnapshot | None = None) -> Event:
        """Deliver one message to a domain; return what is told of it."""
        resolver = DnsResolver(self.dns.resolver, limits=NO_CACHE, confine_to_loopback=True)
        ca_file = self.root.ca_file(self.directory)
        fetcher = StsFetcher(resolver, ca_file=ca_file, port=self.sts_port, deadline_s=5.0)
        # Each message meets a process that has just begun.
        cache = StsCache(resolver, fetcher, self.kept, RunningClock())
        cache.load()
        it = world(snapshot)
        connector = SmtpConnector(PATIENT, confine_to_loopback=True, ca_file=ca_file)
        it.ports = replace(
            it.ports,
            resolver=resolver,
            connector=connector,
            smtp_port=self.heard.port,
            sts=cache,
        )
        it.ledger.add(replace(row(next(NUMBERS), recipient=f"a@{domain}"), site=host))
        await drained(it, DrainBell(NODE, MailClass.MAIN, (Lane(1, host),)))
        for task in list(cache._behind):
            await task
        cache.close()
        (event,) = it.ledger.events
        return event

    def tlsa(self, host: str, *records: str) -> None:
        """Publish the records of a host of the signed zone."""
        name = host.removesuffix(f".{SIGNED}").replace(".", "__")
        self.dns.set(SIGNED, **{f"_{self.heard.port}___tcp__{name}_TLSA": "\n".join(records)})


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority.root()


@asynccontextmanager
async def net(
    dns: SignedDns, root: Authority, directory: Path, shown: Shown | None
) -> AsyncIterator[Net]:
    async with serving(server(shown.context(directory) if shown is not None else None)) as heard:
        yield Net(dns, root, directory, heard=heard)


def text_of(shown: Shown, usage: int, selector: int, matching: int, *, depth: int = 0) -> str:
    record = shown.tlsa(usage, selector, matching, depth=depth)
    return f"{usage} {selector} {matching} {record.data.hex()}"


@pytest.fixture(scope="module")
def zones(signed_dns: SignedDns) -> SignedDns:
    signed_dns.set(
        SIGNED,
        at_MX=f"10 mx.{SIGNED}.",
        mx_A="127.0.0.1",
        forged_A="127.0.0.1",
        forged_MX=f"10 forged.{SIGNED}.",
        alias_CNAME=f"mx.{SIGNED}.",
        aliased_MX=f"10 alias.{SIGNED}.",
        away_MX=f"10 mx.{PLAIN}.",
    )
    signed_dns.set(PLAIN, at_MX=f"10 mx.{PLAIN}.", mx_A="127.0.0.1", signed_MX=f"10 mx.{SIGNED}.")
    signed_dns.set(BOGUS, at_MX=f"10 mx.{SIGNED}.")
    return signed_dns


MX = f"mx.{SIGNED}"


# --- DANE -----------------------------------------------------------------------------------------


async def test_a_server_with_the_certificate_of_its_record_gets_the_mail(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    for shown, usage, depth in ((self_signed("x.test"), 3, 0), (root.issue(SIGNED), 2, 1)):
        async with net(zones, root, tmp_path, shown) as it:
            it.tlsa(MX, text_of(shown, usage, 1, 1, depth=depth))
            told = await it.send(SIGNED, MX)
        assert (told.kind, told.tls_policy, told.tls_result) == ("delivered", "tlsa", "")
        assert told.tls_version.startswith("TLSv1.")
        assert told.tls_cipher


async def test_a_server_with_another_certificate_gets_nothing(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    async with net(zones, root, tmp_path, root.issue(MX)) as it:
        it.tlsa(MX, text_of(self_signed(MX), 3, 1, 1))
        told = await it.send(SIGNED, MX)
        assert (told.kind, told.tls_policy, told.tls_result) == (
            "deferred",
            "tlsa",
            "validation-failure",
        )
        assert it.heard.contents == []
        row_of = DomainTls(1, SIGNED, DomainTlsLevel.REQUIRED)
        snapshot = replace(policy(), domain_tls={SIGNED: row_of})
        told = await it.send(SIGNED, MX, snapshot)
        assert (told.kind, told.tls_policy) == ("delivered", "operator")


async def test_records_nobody_can_use_demand_encryption_by_whomever(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    for shown, kind in ((self_signed("x.test"), "delivered"), (None, "deferred")):
        async with net(zones, root, tmp_path, shown) as it:
            it.tlsa(MX, "1 1 1 " + "ab" * 32)
            assert (await it.send(SIGNED, MX)).kind == kind
            assert len(it.heard.contents) == (kind == "delivered")


async def test_starttls_that_is_taken_away_does_not_bring_mail_into_the_clear(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    async with net(zones, root, tmp_path, None) as it:
        it.tlsa(MX, text_of(self_signed(MX), 3, 1, 1))
        told = await it.send(SIGNED, MX)
        assert (told.kind, told.tls_result) == ("deferred", "starttls-not-supported")
        assert it.heard.contents == []
        it.tlsa(MX)
        told = await it.send(SIGNED, MX)
        assert (told.kind, told.tls_policy) == ("delivered", "no-policy-found")


@pytest.mark.parametrize("domain", [FORGED, BOGUS])
async def test_forged_dns_makes_mail_wait_and_never_sends_it_in_clear(
    domain: str, zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    host = FORGED if domain == FORGED else MX
    async with net(zones, root, tmp_path, None) as it:
        it.tlsa(FORGED, text_of(self_signed(FORGED), 3, 1, 1))
        told = await it.send(domain, host)
        assert told.kind == "deferred"
        assert "SERVFAIL" in told.reply
        assert it.heard.sessions == 0
        if domain == FORGED:
            assert (told.tls_policy, told.tls_result) == ("tlsa", "dnssec-invalid")


@pytest.mark.parametrize("domain", [f"signed.{PLAIN}", f"away.{SIGNED}", PLAIN])
async def test_what_is_not_signed_whole_is_served_as_if_there_was_no_record(
    domain: str, zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    host = MX if domain.startswith("signed.") else f"mx.{PLAIN}"
    async with net(zones, root, tmp_path, self_signed("x.test")) as it:
        wrong = text_of(self_signed(MX), 3, 1, 1)
        it.tlsa(MX, wrong)
        zones.set(PLAIN, **{f"_{it.heard.port}___tcp__mx_TLSA": wrong})
        told = await it.send(domain, host)
        assert (told.kind, told.tls_policy, told.tls_result) == (
            "delivered",
            "no-policy-found",
            "",
        )


async def test_the_records_of_an_alias_are_those_of_the_host_behind_it_or_its_own(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    shown, alias = self_signed("x.test"), f"alias.{SIGNED}"
    for at, other in ((MX, alias), (alias, MX)):
        async with net(zones, root, tmp_path, shown) as it:
            it.tlsa(other)
            it.tlsa(at, text_of(shown, 3, 1, 1))
            told = await it.send(f"aliased.{SIGNED}", alias)
            assert (told.kind, told.tls_policy, told.tls_result) == ("delivered", "tlsa", "")
            it.tlsa(at, text_of(self_signed("x.test"), 3, 1, 1))
            assert (await it.send(f"aliased.{SIGNED}", alias)).kind == "deferred"


# --- MTA-STS --------------------------------------------------------------------------------------


@asynccontextmanager
async def policed(
    dns: SignedDns,
    root: Authority,
    directory: Path,
    shown: Shown | None,
    *,
    mode: str = "enforce",
    mx: str = f"mx.{PLAIN}",
) -> AsyncIterator[tuple[Net, Web]]:
    """A server, and the policy of PLAIN."""
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(net(dns, root, directory, shown))
        web = Web(page(POLICY.format(mode=mode, mx=mx).encode()))
        context = root.issue(f"mta-sts.{PLAIN}").context(directory)
        await stack.enter_async_context(serving_https(web, context))
        it.sts_port = web.port
        records = {"mta-sts_A": "127.0.0.1", "_mta-sts_TXT": f'"v=STSv1; id={next(NUMBERS)};"'}
        dns.set(PLAIN, **records)
        yield it, web


async def test_an_enforced_policy_is_met_by_a_valid_certificate_alone(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    host = f"mx.{PLAIN}"
    for shown, result in (
        (root.issue(host), ""),
        (root.issue(f"*.{PLAIN}"), ""),
        (root.issue("mx.else.test"), "certificate-host-mismatch"),
        (self_signed(host), "certificate-not-trusted"),
        (None, "starttls-not-supported"),
    ):
        async with policed(zones, root, tmp_path, shown) as (it, _):
            told = await it.send(PLAIN, host)
            assert (told.tls_policy, told.tls_result) == ("sts", result)
            assert told.kind == ("deferred" if result else "delivered")
            assert len(it.heard.contents) == (told.kind == "delivered")


async def test_an_enforced_policy_keeps_mail_from_a_host_it_does_not_name(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    host = f"mx.{PLAIN}"
    async with policed(zones, root, tmp_path, root.issue(host), mx="*.else.test") as (it, _):
        told = await it.send(PLAIN, host)
        assert (told.kind, told.tls_result) == ("deferred", "validation-failure")
        assert it.heard.sessions == 0


async def test_a_tested_policy_lets_mail_pass_and_tells_what_failed(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    host = f"mx.{PLAIN}"
    for shown, result in (
        (root.issue(host), ""),
        (root.issue("mx.else.test"), "certificate-host-mismatch"),
        (None, "starttls-not-supported"),
    ):
        async with policed(zones, root, tmp_path, shown, mode="testing") as (it, _):
            told = await it.send(PLAIN, host)
            assert (told.kind, told.tls_policy, told.tls_result) == ("delivered", "sts", result)


async def test_neither_a_missing_record_nor_a_dead_policy_host_loosens_a_known_policy(
    zones: SignedDns, root: Authority, tmp_path: Path
) -> None:
    host = f"mx.{PLAIN}"
    async with policed(zones, root, tmp_path, root.issue(host)) as (it, web):
        assert (await it.send(PLAIN, host)).kind == "delivered"
        known = it.kept
        asked = len(web.asked)
    async with net(zones, root, tmp_path, self_signed(host)) as it:
        it.kept = known
        zones.set(PLAIN, **{"_mta-sts_TXT": '"v=STSv1; id=another;"'})
        assert (await it.send(PLAIN, host)).tls_result == "certificate-not-trusted"
        zones.set(PLAIN, **{"_mta-sts_TXT": ""})
        assert (await it.send(PLAIN, host)).tls_result == "certificate-not-trusted"
        assert it.heard.contents == []
        it.kept = Kept()
        assert (await it.send(PLAIN, host)).kind == "delivered"
    assert len(web.asked) == asked == 1

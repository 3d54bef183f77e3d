"""The resolver against a name server that answers, refuses, keeps silent or cuts its answers."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.rcode
import pytest

from mailcore.ports import DnsStatus, MxHost, Resolver
from mailio.dns import CacheLimits, DnsResolver
from tests.support.dns_peer import NameServer, answering

WORLD: dict[str, list[str]] = {
    "MX two.test": ["20 MX2.two.test.", "10 mx1.two.test."],
    "MX nullmx.test": ["0 ."],
    "MX mixed.test": ["0 .", "10 mx1.two.test."],
    "A implicit.test": ["127.0.0.5"],
    "TXT bare.test": ['"no mail here"'],
    "A mx1.two.test": ["127.0.0.2", "127.0.0.3"],
    "AAAA mx1.two.test": ["::1"],
    "CNAME alias.test": ["two.test."],
    "CNAME short.test": ["mx1.two.test."],
    "CNAME dangling.test": ["nowhere.test."],
    "A outside.test": ["192.0.2.1"],
    "AAAA half.test": ["::1"],
    "PTR 2.0.0.127.in-addr.arpa": ["Mx1.Two.test."],
}


def resolver(server: NameServer, **options: Any) -> DnsResolver:
    """Return a resolver that asks this server, and does not wait long."""
    options = {"timeout_s": 0.3} | options
    return DnsResolver(("127.0.0.1", server.port), confine_to_loopback=True, **options)


async def test_exchangers_come_by_preference_in_lower_case_with_their_ttl() -> None:
    async with answering(NameServer(WORLD)) as server:
        port: Resolver = resolver(server)
        answer = await port.mx("Two.test.")
    assert answer.status is DnsStatus.OK
    assert answer.hosts == (MxHost(10, "mx1.two.test"), MxHost(20, "mx2.two.test"))
    assert answer.ttl_s == 120
    assert not answer.is_implicit


async def test_null_mx_takes_no_mail_and_beside_a_host_it_is_ignored() -> None:
    async with answering(NameServer(WORLD)) as server:
        answer = await resolver(server).mx("nullmx.test")
        assert (answer.status, answer.hosts) == (DnsStatus.NULL_MX, ())
        assert "null MX" in answer.detail
        assert (await resolver(server).mx("mixed.test")).hosts == (MxHost(10, "mx1.two.test"),)


async def test_a_domain_with_an_address_alone_is_its_own_exchanger() -> None:
    async with answering(NameServer(WORLD)) as server:
        answer = await resolver(server).mx("implicit.test")
    assert answer.hosts == (MxHost(0, "implicit.test"),)
    assert answer.is_implicit


async def test_no_domain_and_no_data_are_told_apart() -> None:
    async with answering(NameServer(WORLD)) as server:
        asked = resolver(server)
        assert (await asked.mx("gone.test")).status is DnsStatus.NO_DOMAIN
        answer = await asked.mx("bare.test")
        assert answer.status is DnsStatus.NO_DATA
        assert answer.detail == "bare.test has neither MX nor address"
        assert answer.ttl_s == 77  # The SOA's minimum.
        assert (await asked.addresses("bare.test")).status is DnsStatus.NO_DATA
        assert (await asked.addresses("gone.test")).status is DnsStatus.NO_DOMAIN


async def test_aliases_are_followed_to_their_end() -> None:
    world = NameServer(WORLD, bare_alias={"short.test"})
    async with answering(world) as server:
        asked = resolver(server)
        answer = await asked.mx("alias.test")
        assert (answer.hosts[0], answer.canonical) == (MxHost(10, "mx1.two.test"), "two.test")
        assert "127.0.0.2" in (await asked.addresses("short.test")).addresses
        assert (await asked.mx("dangling.test")).status is DnsStatus.NO_DOMAIN


async def test_addresses_are_of_both_kinds() -> None:
    async with answering(NameServer(WORLD)) as server:
        answer = await resolver(server).addresses("mx1.two.test")
    assert answer.addresses[0] == "::1"
    assert set(answer.addresses[1:]) == {"127.0.0.2", "127.0.0.3"}


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR])
async def test_a_failing_server_defers_and_says_which_and_why(rcode: dns.rcode.Rcode) -> None:
    async with answering(NameServer(WORLD, rcodes={"bad.test": rcode})) as server:
        answer = await resolver(server).mx("bad.test")
    assert answer.status is DnsStatus.TEMPORARY
    assert answer.detail == f"MX bad.test: 127.0.0.1 answers {rcode.name}"


async def test_silence_defers_after_the_deadline() -> None:
    async with answering(NameServer(WORLD, silent={"mute.test"})) as server:
        answer = await resolver(server).mx("mute.test")
        assert answer.status is DnsStatus.TEMPORARY
        assert "silent" in answer.detail or "no answer" in answer.detail
        assert server.asked["MX mute.test"] == 2


async def test_half_an_answer_is_an_answer_and_half_of_nothing_is_temporary() -> None:
    silent = {"A half.test", "A bare.test"}
    async with answering(NameServer(WORLD, silent=silent)) as server:
        asked = resolver(server)
        assert (await asked.addresses("half.test")).addresses == ("::1",)
        assert (await asked.addresses("bare.test")).status is DnsStatus.TEMPORARY
        # So the domain is not declared without address either.
        assert (await asked.mx("bare.test")).status is DnsStatus.TEMPORARY


async def test_a_truncated_answer_is_asked_again_over_tcp() -> None:
    async with answering(NameServer(WORLD, only_tcp={"two.test"})) as server:
        answer = await resolver(server).mx("two.test")
        assert len(answer.hosts) == 2
        assert server.asked_tcp["MX two.test"] == 1


async def test_equal_questions_in_flight_are_asked_once_even_if_one_asker_leaves() -> None:
    async with answering(NameServer(WORLD)) as server:
        asked = resolver(server)
        askers = [asyncio.ensure_future(asked.mx("two.test")) for _ in range(50)]
        await asyncio.sleep(0)
        askers[0].cancel()
        answers = await asyncio.gather(*askers, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert len({repr(answer) for answer in answers[1:]}) == 1
        assert server.asked["MX two.test"] == 1


async def test_answers_are_kept_between_floor_and_ceiling() -> None:
    async with answering(NameServer(WORLD, ttl_s=0)) as server:
        asked = resolver(server, limits=CacheLimits(floor_s=40))
        assert (await asked.mx("two.test")).ttl_s == 40
        assert 0 < (await asked.mx("two.test")).ttl_s <= 40
        assert server.asked["MX two.test"] == 1
        server.ttl_s = 86_400
        other = resolver(server, limits=CacheLimits(ceiling_s=60))
        assert (await other.mx("two.test")).ttl_s == 60
        assert (await other.mx("gone.test")).ttl_s == 60


async def test_what_is_not_there_is_asked_for_again_sooner() -> None:
    async with answering(NameServer(WORLD, ttl_s=86_400)) as server:
        asked = resolver(server, limits=CacheLimits(ceiling_s=3600, negative_ceiling_s=50))
        assert (await asked.mx("gone.test")).ttl_s == 50
        assert (await asked.mx("two.test")).ttl_s == 3600


async def test_a_node_s_settings_hold_for_the_questions_to_come() -> None:
    world = NameServer(WORLD, ttl_s=86_400, silent={"slow.test"})
    async with answering(world) as server:
        asked = resolver(server, limits=CacheLimits(ceiling_s=60))
        assert (await asked.mx("two.test")).ttl_s == 60
        asked.adjust(timeout_s=0.1, ceiling_s=7200)
        assert (await asked.addresses("mx1.two.test")).ttl_s == 7200
        answer = await asked.mx("slow.test")
        assert answer.status is DnsStatus.TEMPORARY
        assert "no answer within 0.1 s" in answer.detail or "is silent" in answer.detail


async def test_an_answer_that_is_over_is_asked_again() -> None:
    async with answering(NameServer(WORLD, ttl_s=0)) as server:
        asked = resolver(server, limits=CacheLimits(floor_s=0))
        await asked.mx("two.test")
        await asked.mx("two.test")
        assert server.asked["MX two.test"] == 2


async def test_a_failure_is_kept_for_a_moment_only() -> None:
    broken = NameServer(WORLD, rcodes={"two.test": dns.rcode.SERVFAIL})
    async with answering(broken) as server:
        asked = resolver(server, limits=CacheLimits(temporary_s=0.05), attempts=1)
        assert (await asked.mx("two.test")).status is DnsStatus.TEMPORARY
        assert (await asked.mx("two.test")).status is DnsStatus.TEMPORARY
        assert server.asked["MX two.test"] == 1
        server.rcodes = {}
        await asyncio.sleep(0.06)
        assert (await asked.mx("two.test")).status is DnsStatus.OK


async def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    async with answering(NameServer(WORLD)) as server:
        asked = resolver(server, limits=CacheLimits(entries=2))
        for domain in ("two.test", "nullmx.test", "two.test", "mixed.test", "two.test"):
            await asked.mx(domain)
        assert server.asked["MX two.test"] == 1
        await asked.mx("nullmx.test")
        assert server.asked["MX nullmx.test"] == 2


async def test_the_next_server_is_asked_when_one_fails() -> None:
    broken = NameServer(WORLD, rcodes={"two.test": dns.rcode.SERVFAIL})
    async with answering(broken) as bad, answering(NameServer(WORLD)) as good:
        asked = resolver(bad)
        asked._servers.append(("127.0.0.1", good.port))
        assert (await asked.mx("two.test")).status is DnsStatus.OK


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".test"])
async def test_a_name_that_is_none_does_not_exist(name: str) -> None:
    async with answering(NameServer(WORLD)) as server:
        assert (await resolver(server).addresses(name)).status is not DnsStatus.OK


async def test_lab_mode_answers_no_address_outside_loopback() -> None:
    async with answering(NameServer(WORLD)) as server:
        answer = await resolver(server).addresses("outside.test")
        assert answer.status is DnsStatus.TEMPORARY
        assert answer.addresses == ()
        assert "192.0.2.1" in answer.detail
        assert (await resolver(server).mx("outside.test")).status is DnsStatus.TEMPORARY
        live = DnsResolver(("127.0.0.1", server.port))
        assert (await live.addresses("outside.test")).addresses == ("192.0.2.1",)


def test_lab_mode_asks_no_name_server_outside_loopback() -> None:
    with pytest.raises(ValueError, match=r"lab mode: the name server 192\.0\.2\.53"):
        DnsResolver(("192.0.2.53", 53), confine_to_loopback=True)


async def test_an_address_has_names() -> None:
    async with answering(NameServer(WORLD)) as server:
        asked = resolver(server)
        assert (await asked.ptr("127.0.0.2")).names == ("mx1.two.test",)
        assert (await asked.ptr("127.0.0.9")).status is DnsStatus.NO_DOMAIN
        assert (await asked.ptr("no address")).status is DnsStatus.NO_DOMAIN


async def test_the_servers_of_the_system_are_found_when_none_is_given() -> None:
    assert all(port == 53 for _, port in DnsResolver()._servers)


# --- DNSSEC, as the resolver tells it -------------------------------------------------------------

SIGNED = {
    "MX signed.test": ["10 mx.signed.test."],
    "A mx.signed.test": ["127.0.0.1"],
    "A bare.signed.test": ["127.0.0.1"],
    "CNAME alias.signed.test": ["mx.else.test."],
    "A mx.else.test": ["127.0.0.1"],
    "TLSA _25._tcp.mx.signed.test": ["3 1 1 " + "ab" * 32, "2 0 0 c0ffee"],
    "TXT _mta-sts.signed.test": ['"v=STSv1;" " id=1;"', '"other"'],
}


async def test_an_answer_is_secure_if_the_resolver_says_so() -> None:
    secure = {"signed.test", "mx.signed.test", "_25._tcp.mx.signed.test"}
    async with answering(NameServer(SIGNED, secure=secure)) as server:
        resolver = DnsResolver(("127.0.0.1", server.port))
        assert (await resolver.mx("signed.test")).is_secure
        assert (await resolver.addresses("mx.signed.test")).is_secure
        found = await resolver.tlsa("mx.signed.test", 25)
        assert found.is_secure
        # A server gives the records of a set in any order.
        data = {(one.usage, one.selector, one.matching): one.data for one in found.records}
        assert data.keys() == {(3, 1, 1), (2, 0, 0)}
        assert data[2, 0, 0] == b"\xc0\xff\xee"
        # Kept answers are as secure as they came.
        assert (await resolver.mx("signed.test")).is_secure
        assert not (await resolver.mx("bare.signed.test")).is_secure


async def test_an_address_is_secure_only_if_the_lack_of_the_other_kind_is() -> None:
    async with answering(NameServer(SIGNED, secure={"A mx.signed.test"})) as server:
        found = await DnsResolver(("127.0.0.1", server.port)).addresses("mx.signed.test")
    assert (found.addresses, found.is_secure) == (("127.0.0.1",), False)


async def test_an_implicit_exchanger_is_secure_if_all_of_it_is() -> None:
    for secure, is_secure in (({"bare.signed.test"}, True), ({"A bare.signed.test"}, False)):
        async with answering(NameServer(SIGNED, secure=secure)) as server:
            found = await DnsResolver(("127.0.0.1", server.port)).mx("bare.signed.test")
        assert (found.is_implicit, found.is_secure) == (True, is_secure)


async def test_a_secure_alias_to_a_host_that_is_not_is_told_as_such() -> None:
    for secure in (set[str](), {"CNAME alias.signed.test"}):
        async with answering(NameServer(SIGNED, secure=secure)) as server:
            found = await DnsResolver(("127.0.0.1", server.port)).addresses("alias.signed.test")
        assert (found.canonical, found.is_secure) == ("mx.else.test", False)
        assert found.is_alias_secure is bool(secure)


async def test_an_alias_of_which_nothing_can_be_learned_is_not_taken_for_an_unsigned_one() -> None:
    world = NameServer(
        SIGNED, silent={"CNAME alias.signed.test"}, secure={"CNAME alias.signed.test"}
    )
    async with answering(world) as server:
        asked = DnsResolver(("127.0.0.1", server.port), timeout_s=0.1)
        assert (await asked.addresses("alias.signed.test")).status is DnsStatus.TEMPORARY


async def test_texts_are_put_together_from_their_strings() -> None:
    async with answering(NameServer(SIGNED)) as server:
        resolver = DnsResolver(("127.0.0.1", server.port))
        assert sorted((await resolver.txt("_mta-sts.signed.test")).texts) == [
            "other",
            "v=STSv1; id=1;",
        ]
        assert (await resolver.txt("_mta-sts.none.test")).status is DnsStatus.NO_DOMAIN

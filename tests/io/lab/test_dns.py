"""The lab's DNS answers a real resolver, and fails on cue."""

import asyncio
import struct

import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import pytest

from lab.run import Lab
from lab.world import Fault, FaultKind, Record, default_world
from lab.zone import RecordError, Zone, reverse_name


@pytest.fixture
def resolver(lab: Lab) -> dns.asyncresolver.Resolver:
    one = dns.asyncresolver.Resolver(configure=False)
    one.nameservers = ["127.0.0.1"]
    one.port = lab.dns.port
    one.timeout = one.lifetime = 0.5
    return one


async def ask(lab: Lab, name: str, kind: str, *, is_tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    call = dns.asyncquery.tcp if is_tcp else dns.asyncquery.udp
    return await call(query, "127.0.0.1", port=lab.dns.port, timeout=5)


async def test_every_domain_leads_to_exchangers_that_listen(
    lab: Lab, resolver: dns.asyncresolver.Resolver
) -> None:
    for provider in lab.world.providers:
        sets = set()
        for domain in provider.domains:
            if domain.has_mx_set:
                answer = await resolver.resolve(domain.name, "MX")
                sets.add(tuple(sorted(rdata.to_text() for rdata in answer)))
        (shared,) = sets  # one MX set for all of a provider: one site
        assert len(shared) == 2
        for host in provider.mx_hosts:
            (address,) = await resolver.resolve(host.name, "A")
            assert address.to_text() == host.address
            (name,) = await resolver.resolve(reverse_name(host.address), "PTR")
            assert name.to_text() == f"{host.name}."


async def test_odd_names_resolve_as_their_rfc_says(
    lab: Lab, resolver: dns.asyncresolver.Resolver
) -> None:
    (null_mx,) = await resolver.resolve("nomail.test", "MX")
    assert null_mx.to_text() == "0 ."
    with pytest.raises(dns.resolver.NoAnswer):
        await resolver.resolve("implicit.test", "MX")
    (implicit,) = await resolver.resolve("implicit.test", "A")
    assert implicit.to_text() == "127.0.1.1"
    alias = await resolver.resolve("alias.test", "MX")
    assert alias.canonical_name == dns.name.from_text("accepta.test")
    assert len(alias) == 2
    with pytest.raises(dns.resolver.NXDOMAIN):
        await resolver.resolve("gone.dangling.test", "A")
    with pytest.raises(dns.resolver.NXDOMAIN):
        await resolver.resolve("example.com", "MX")  # the world ends at its zone
    with pytest.raises(dns.resolver.NoAnswer):
        await resolver.resolve("accepta-hosted.test", "A")  # a name between names exists
    spf = await resolver.resolve("sender.test", "TXT")
    assert "ip4:127.0.100.1" in spf[0].to_text()


async def test_a_loop_of_aliases_ends(lab: Lab) -> None:
    answer = await ask(lab, "loop-a.test", "A")
    assert answer.rcode() == dns.rcode.NOERROR
    assert {rrset.rdtype for rrset in answer.answer} == {dns.rdatatype.CNAME}


async def test_a_negative_answer_carries_its_ttl(lab: Lab) -> None:
    answer = await ask(lab, "nobody.test", "MX")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert answer.authority[0].rdtype == dns.rdatatype.SOA
    assert answer.authority[0].ttl == 5


async def test_the_letters_of_the_question_are_kept(lab: Lab) -> None:
    answer = await ask(lab, "AccEpta.TEST", "MX")
    assert answer.answer[0].name.to_text() == "AccEpta.TEST."


@pytest.mark.parametrize(
    ("kind", "rcode"),
    [
        (FaultKind.SERVFAIL, dns.rcode.SERVFAIL),
        (FaultKind.REFUSED, dns.rcode.REFUSED),
        (FaultKind.NXDOMAIN, dns.rcode.NXDOMAIN),
    ],
)
async def test_a_fault_meets_its_name_as_often_as_it_was_told(
    lab: Lab, kind: FaultKind, rcode: dns.rcode.Rcode
) -> None:
    lab.zone.script_fault(Fault("accepta.test", kind, times=2))
    rcodes = [(await ask(lab, "accepta.test", "MX")).rcode() for _ in range(3)]
    assert rcodes == [rcode, rcode, dns.rcode.NOERROR]


async def test_a_dropped_question_times_out_and_resolves_when_the_fault_is_gone(
    lab: Lab, resolver: dns.asyncresolver.Resolver
) -> None:
    with pytest.raises(dns.resolver.LifetimeTimeout):
        await resolver.resolve("drop.test", "MX")
    with pytest.raises(dns.resolver.NoNameservers):
        await resolver.resolve("servfail.test", "MX")
    assert lab.zone.remove_fault("drop.test")
    with pytest.raises(dns.resolver.NXDOMAIN):
        await resolver.resolve("drop.test", "MX")


async def test_a_slow_answer_comes_behind_a_later_quick_one(lab: Lab) -> None:
    lab.zone.script_fault(Fault("mx1.accepta.test", FaultKind.SLOW, delay_s=0.2))
    order: list[str] = []

    async def one(name: str) -> None:
        answer = await ask(lab, name, "A")
        assert answer.answer
        order.append(name)

    slow = asyncio.create_task(one("mx1.accepta.test"))
    while not lab.dns.queries["mx1.accepta.test. a"]:
        await asyncio.sleep(0.001)
    await one("mx2.accepta.test")
    await slow
    assert order == ["mx2.accepta.test", "mx1.accepta.test"]


async def test_a_truncated_answer_is_whole_over_tcp(
    lab: Lab, resolver: dns.asyncresolver.Resolver
) -> None:
    lab.zone.script_fault(Fault("accepta.test", FaultKind.TRUNCATED))
    answer = await ask(lab, "accepta.test", "MX")
    assert answer.flags & dns.flags.TC
    assert not answer.answer
    assert len(await resolver.resolve("accepta.test", "MX")) == 2  # it asks again over TCP


async def test_an_answer_too_big_for_the_datagram_is_truncated(lab: Lab) -> None:
    long = tuple(f'"{number:03d}{"x" * 200}"' for number in range(20))
    lab.zone.add(Record("big.test", "TXT", long))
    assert (await ask(lab, "big.test", "TXT")).flags & dns.flags.TC
    whole = await ask(lab, "big.test", "TXT", is_tcp=True)
    assert len(whole.answer[0]) == 20


async def test_several_questions_go_over_one_tcp_connection(lab: Lab) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.dns.port)
    for name in ("accepta.test", "refusa.test"):
        wire = dns.message.make_query(name, "MX").to_wire()
        writer.write(struct.pack("!H", len(wire)) + wire)
    for name in ("accepta.test", "refusa.test"):
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        answer = dns.message.from_wire(await reader.readexactly(size))
        assert answer.answer[0].name == dns.name.from_text(name)
    writer.close()
    await writer.wait_closed()


async def test_what_is_no_question_is_refused_or_ignored(lab: Lab) -> None:
    assert await lab.dns.answer(b"x", is_udp=True) is None
    garbage = await lab.dns.answer(b"\1\2\1\0\0\1\0\0\0\0\0\0\xff", is_udp=True)
    assert garbage is not None
    assert dns.message.from_wire(garbage).rcode() == dns.rcode.FORMERR
    query = dns.message.make_query("accepta.test", "MX")
    response = dns.message.make_response(query).to_wire()
    assert await lab.dns.answer(response, is_udp=True) is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record("a.test", "MX", ("ten mx.test.",)), "a.test MX"),
        (Record("a.test", "NOPE", ("x",)), "not a record type"),
        (Record("a..test", "A", ("127.0.0.1",)), "not a name"),
        (Record("a.test", "A", ()), "no values"),
        (Record("a.test", "A", ("127.0.0.1",), -1), "ttl_s"),
        (Record("accepta.test", "CNAME", ("refusa.test.",)), "stands alone"),
        (Record("alias.test", "A", ("127.0.0.1",)), "stands alone"),
    ],
)
def test_a_record_that_cannot_be_is_refused_by_name(record: Record, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        Zone(default_world()).add(record)


async def test_a_key_set_at_run_time_is_served_and_taken_back(
    lab: Lab, resolver: dns.asyncresolver.Resolver
) -> None:
    name = "s1._domainkey.sender.test"
    lab.zone.add(Record(name, "TXT", ('"v=DKIM1; k=rsa; p=" "AAAA"',)))
    (key,) = await resolver.resolve(name, "TXT")
    assert b"".join(key.strings) == b"v=DKIM1; k=rsa; p=AAAA"
    assert lab.zone.remove(name, "TXT")
    assert not lab.zone.remove(name, "TXT")
    with pytest.raises(dns.resolver.NXDOMAIN):
        await resolver.resolve(name, "TXT")

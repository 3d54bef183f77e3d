"""The wide world: providers that are difficult in ways of their own, over real connections."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import dns.name
import dns.rdatatype
import pytest

from lab.house import ThrottleMemory
from lab.manner import (
    Certificate,
    DrawnBy,
    Feedback,
    FullMailbox,
    Manner,
    Throttle,
    TlsManner,
    late_answer,
    lose_reply,
)
from lab.run import Lab
from lab.script import Stage
from lab.world import WORLDS, World, default_world, wide_world
from lab.zone import Zone
from tests.io.lab.support import MESSAGE, dialogue, running, until_ended, with_manner


def names_of(zone: Zone, name: str, kind: dns.rdatatype.RdataType) -> set[str]:
    (found,), _ = zone.find(dns.name.from_text(name), kind)
    return {rdata.to_text() for rdata in found}


def test_every_provider_of_the_wide_world_has_domains_exchangers_and_a_share() -> None:
    world = wide_world()
    assert len(world.providers) == 11
    assert sum(provider.share for provider in world.providers) == pytest.approx(1.0)
    assert len({provider.manner for provider in world.providers}) == 11
    for provider in world.providers:
        assert len(provider.mx_hosts) == 2
        assert sum(domain.weight > 0 for domain in provider.domains) == 12
    assert all(host.address.startswith("127.") for p in world.providers for host in p.mx_hosts)


def test_the_default_world_is_none_of_these() -> None:
    for provider in default_world().providers:
        manner = provider.manner
        assert (provider.feedback, provider.has_mx_per_domain) == (None, False)
        assert (manner.throttle, manner.full_mailbox) == (None, None)
        assert manner.certificate is Certificate.OWN_NAMES
    assert WORLDS["wide"] is wide_world
    assert WORLDS["default"] is default_world


def test_domains_of_one_site_have_exchangers_of_their_own_under_one_suffix() -> None:
    world = wide_world()
    zone, officia = Zone(world), world.provider("officia")
    exchangers = set()
    for domain in officia.domains:
        (value,) = names_of(zone, domain.name, dns.rdatatype.MX)
        exchanger = value.removeprefix("0 ")
        assert exchanger.endswith(f".{officia.mx_suffix}.")
        assert names_of(zone, exchanger, dns.rdatatype.A) == {"127.0.2.1", "127.0.2.2"}
        exchangers.add(exchanger)
    assert len(exchangers) == len(officia.domains)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Throttle(0), "messages_per_s must be above 0"),
        (lambda: Throttle(1, burst=0), "burst must be at least 1"),
        (lambda: Throttle(1, penalty_s=-1), "penalty_s must not be negative"),
        (lambda: FullMailbox(-1), "full_mailbox: after_s must not be negative"),
        (lambda: Feedback(late_bounce_share=1.1), "late_bounce_share must lie in 0..1"),
        (lambda: Feedback(0.6, 0.6), "together are over 1"),
        (lambda: Feedback(after_s=float("inf")), "after_s must be a number"),
    ],
)
def test_a_manner_that_cannot_be_is_named(build: object, reason: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=reason):
        build()


def test_an_allowance_is_a_burst_then_a_rate_and_recovers_after_the_penalty() -> None:
    memory, throttle = ThrottleMemory(), Throttle(10.0, burst=3, penalty_s=2.0)
    assert [memory.takes(throttle, "a", now=0.0) for _ in range(4)] == [True, True, True, False]
    assert memory.is_blocked("a", now=1.9)
    assert not memory.takes(throttle, "a", now=1.9)  # the rate would allow it, the penalty not
    assert memory.takes(throttle, "b", now=1.9)  # each address for itself
    assert not memory.is_blocked("a", now=2.0)
    assert [memory.takes(throttle, "a", now=2.0) for _ in range(4)] == [True, True, True, False]


async def test_who_goes_too_fast_is_told_421_until_the_penalty_is_over(tmp_path: Path) -> None:
    world = with_manner(Manner(throttle=Throttle(0.001, burst=2, penalty_s=3600.0)))
    async with running(tmp_path, world) as lab:
        async with dialogue(lab) as line:
            await line.begin()
            for number in range(2):
                await line.deliver("u@accepta.test", MESSAGE % (b"t%d" % number))
            assert (await line.say("MAIL FROM:<a@s.test>")).startswith("421 4.7.0 Too many mess")
            assert await line.reply() == ""  # closed
        async with dialogue(lab, host=1) as line:  # the other exchanger knows of it
            assert (await line.reply()).startswith("421 4.7.0 Too many messages")
        counted = lab.tally.counts()["providers"]["accepta"]
        assert counted["accepted_unique"] == 2
        assert counted["stages"] == {"deferred at mail": 1, "deferred at connect": 1}
        lab.receiver.reset()
        async with dialogue(lab) as line:
            await line.begin()
            assert (await line.say("MAIL FROM:<a@s.test>")).startswith("250")


async def test_connections_beyond_the_limit_are_told_421(tmp_path: Path) -> None:
    async with running(tmp_path, with_manner(Manner(max_connections=1))) as lab:
        async with dialogue(lab) as first:
            await first.begin()
            async with dialogue(lab) as second:
                assert (await second.reply()).startswith("421 4.7.0 Too many connections")
            await first.say("QUIT")
        await until_ended(lab, 2)
        async with dialogue(lab) as third:
            assert (await third.reply()).startswith("220")


async def test_a_full_mailbox_defers_its_owner_alone_and_then_accepts(tmp_path: Path) -> None:
    world = with_manner(Manner(full_mailbox=FullMailbox(3600.0, share=0.5)))
    async with running(tmp_path, world) as lab, dialogue(lab) as line:
        await line.begin()
        await line.say("MAIL FROM:<a@s.test>")
        people = [f"u{number}@accepta.test" for number in range(40)]
        replies = {one: await line.say(f"RCPT TO:<{one}>") for one in people}
        await line.say("RSET")
        full = [one for one, reply in replies.items() if reply.startswith("452 4.2.2")]
        assert 8 < len(full) < 32
        lab.receiver.set_manner(
            Manner(full_mailbox=FullMailbox(0.0, share=0.5)), provider="accepta"
        )
        assert (await line.deliver(full[0], MESSAGE % b"full"))[-1].startswith("250")


async def test_a_lost_reply_is_a_copy_taken_and_its_resend_a_counted_duplicate(
    tmp_path: Path,
) -> None:
    world = with_manner(Manner(rules=(lose_reply(0.5),)))
    async with running(tmp_path, world) as lab:
        sent = lost = 0
        while not (lost and sent - lost):  # until both happened: each attempt is drawn anew
            async with dialogue(lab) as line:
                await line.begin()
                replies = await line.deliver("u@accepta.test", MESSAGE % b"same")
                if replies[-1].startswith("250"):
                    await line.say("QUIT")
            sent += 1
            lost += replies[-1] == ""
        await until_ended(lab, sent)
        counted = lab.tally.counts()["providers"]["accepta"]
        assert counted["accepted"] == sent
        assert counted["duplicates"] == sent - 1
        assert counted["lost_replies"] == counted["on_the_wire"] == lost
        assert counted["lost_connections"] == lost
        assert counted["unanswered"] == 0
    async with running(tmp_path, world) as lab:  # the journal knows it too
        assert lab.tally.counts()["providers"]["accepta"] == counted


async def test_a_stalled_connection_is_answered_in_the_end_and_others_at_once(
    tmp_path: Path,
) -> None:
    rule = late_answer(Stage.MAIL, 0.15, 0.5)
    assert rule.drawn_by is DrawnBy.CONNECTION
    assert rule.applies(1, "a", connection=4) == rule.applies(1, "b", connection=4)
    async with running(tmp_path, with_manner(Manner(rules=(rule,)))) as lab:
        slow = {number for number in range(1, 9) if rule.applies(1, "", connection=number)}
        assert 0 < len(slow) < 8
        loop = asyncio.get_running_loop()
        for number in range(1, 9):
            async with dialogue(lab) as line:
                await line.begin()
                began = loop.time()
                assert (await line.say("MAIL FROM:<a@s.test>")).startswith("250")
                # At least the delay where one is due; nothing is said of how fast the others are.
                assert number not in slow or loop.time() - began >= 0.14


def _trusting(path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(path))


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (Certificate.OWN_NAMES, None),
        (Certificate.EXPIRED, "certificate has expired"),
        (Certificate.OTHER_NAME, "Hostname mismatch"),
    ],
)
async def test_a_certificate_is_good_or_bad_as_asked_for(
    tmp_path: Path, certificate: Certificate, reason: str | None
) -> None:
    manner = Manner(tls=TlsManner.OFFERED, certificate=certificate)
    async with running(tmp_path, with_manner(manner)) as lab:
        reader, writer = await asyncio.open_connection("127.0.1.1", lab.receiver.port)
        await reader.readline()
        writer.write(b"EHLO client.test\r\nSTARTTLS\r\n")
        while (await reader.readline())[:4] != b"220 ":
            pass
        try:
            shaking = writer.start_tls(
                _trusting(tmp_path / "mx1.accepta.test.pem"), server_hostname="mx1.accepta.test"
            )
            if reason is None:
                await shaking
                assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match=reason):
                    await shaking
        finally:
            writer.transport.abort()


async def test_all_of_the_wide_world_listens_and_takes_mail_in_the_end(tmp_path: Path) -> None:
    world = wide_world(
        greylist_s=0.0, full_s=0.0, stall_s=0.01, banner_s=0.01, reports_after_s=3600.0
    )
    async with running(tmp_path, world) as lab:
        await asyncio.gather(*[_deliver_some(lab, provider.key) for provider in world.providers])
        counted = lab.tally.counts()["providers"]
        for provider in world.providers:
            one = counted[provider.key]
            assert one["accepted_unique"] + one["refused_unique"] == 10, provider.key
            assert one["accepted_unique"] > 0, provider.key


async def _deliver_some(lab: Lab, provider: str) -> None:
    """Deliver ten messages, each until it is taken or refused."""
    domain = lab.world.provider(provider).domains[0].name
    for number in range(10):
        code = "4"
        while code not in ("2", "5"):
            async with dialogue(lab, provider, number % 2) as line:
                await line.begin()
                content = MESSAGE % (b"%s-%d" % (provider.encode(), number))
                path = f"b-{number}@sender.test"
                replies = await line.deliver(f"u{number}@{domain}", content, reverse_path=path)
                said = replies[-1] if len(replies) == 4 else replies[1]
                code = said[:1]
                if code:
                    await line.say("QUIT")


def test_a_world_asks_for_its_mailboxes_by_its_first_sending_domain() -> None:
    world = replace(wide_world(), sending_domains=("other.test",))
    assert isinstance(world, World)
    assert world.bounces.address == "bounces@other.test"
    assert world.complaints.user == "complaints"

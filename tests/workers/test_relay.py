"""Mail of a sender with a relay goes there: as its row says, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from mailcore.address import ReversePath
from mailcore.bells import DrainBell, Path
from mailcore.dsn import DsnOrder
from mailcore.envelope import QueuedRow
from mailcore.outcome import MailClass, Scope, TlsNeed, TlsResult
from mailcore.policy.model import PolicySnapshot, Relay
from mailcore.policy.words import RelayAuth, RelayTls, ReturnPathMode, TlsMode
from mailcore.ports import (
    AddressAnswer,
    ConnectFailed,
    DnsStatus,
    Endpoint,
    MxAnswer,
    Proven,
    TimedOut,
    TlsFailed,
    WireMessage,
)
from mailcore.reply import SmtpReply
from mailcore.transaction import Mechanism, Notify
from tests.support.builders import NODE, SITE, policy, row
from tests.support.fakes import World, world
from tests.workers.test_drain import BELL, drained
from workers.engines.feed import Feed, Job
from workers.engines.security import Grounds
from workers.engines.tls_memory import TlsMemory

SITE_1 = "relay:relay.test:587/1/1"
RELAY = Relay(1, "relay.test", 587)
BELLS = DrainBell(NODE, MailClass.MAIN, (Path(1, SITE_1),))
NO_TLS = SmtpReply.local(451, "4.7.4", "TLS is required and not offered")


def relayed(relay: Relay = RELAY) -> PolicySnapshot:
    return replace(policy(), relays={1: relay})


def at_relay(number: int, site: str = SITE_1) -> QueuedRow:
    return replace(row(number), site=site)


class OneSecret:
    """Vault of one password."""

    async def open(self, secret_ref: str) -> bytes:
        assert secret_ref == "relay:1"
        return b"pass word"


def encrypted(endpoint: Endpoint) -> Proven:
    return Proven(is_encrypted=True, names=frozenset({endpoint.host}))


def house(relay: Relay = RELAY) -> World:
    it = world(relayed(relay))
    it.receiver.tls = encrypted
    return it


async def test_mail_goes_to_the_relay_whatever_the_domain_says() -> None:
    it = house()
    it.resolver.mxs["peer.test"] = MxAnswer(DnsStatus.NO_DOMAIN)
    it.ledger.add(at_relay(1), at_relay(2))
    await drained(it, BELLS)
    assert it.ledger.kinds() == ["delivered", "delivered"]
    (endpoint,) = it.receiver.endpoints
    assert (endpoint.host, endpoint.port, endpoint.address) == ("relay.test", 587, "127.0.0.1")
    assert endpoint.tls is TlsMode.REQUIRED
    assert endpoint.demand is not None
    assert endpoint.demand.names == ("relay.test",)
    assert endpoint.credentials is None


@pytest.mark.parametrize(
    ("auth", "mechanism"), [(RelayAuth.ANY, None), (RelayAuth.CRAM_MD5, Mechanism.CRAM_MD5)]
)
async def test_it_is_told_who_we_are(auth: RelayAuth, mechanism: Mechanism | None) -> None:
    it = house(replace(RELAY, auth=auth, login="us", secret_ref="relay:1"))
    it = replace(it, ports=replace(it.ports, vault=OneSecret()))
    it.ledger.add(at_relay(1))
    await drained(it, BELLS)
    credentials = it.receiver.endpoints[0].credentials
    assert credentials is not None
    assert (credentials.user, credentials.secret) == ("us", "pass word")
    assert (credentials.mechanism, credentials.allows_clear) == (mechanism, False)


async def test_without_its_password_the_path_rests_and_says_why() -> None:
    it = house(replace(RELAY, auth=RelayAuth.ANY, login="us", secret_ref="gone"))
    it.ledger.add(at_relay(1), at_relay(2))
    await drained(it, BELLS)
    assert it.receiver.endpoints == []
    (event,) = it.ledger.events
    assert "the password for the relay relay.test cannot be read" in event.reply
    assert [path for path, _, _ in it.shaper.cooled] == [Path(1, SITE_1)]


async def test_a_login_that_is_refused_lets_the_path_rest() -> None:
    it = house()
    wrong = SmtpReply.of(535, ("5.7.8 wrong password",))
    it.receiver.refuse = [ConnectFailed(wrong, scope=Scope.SOURCE, stage="auth")]
    it.ledger.add(at_relay(1), at_relay(2))
    await drained(it, BELLS)
    assert it.ledger.kinds() == ["deferred"]
    assert len(it.shaper.cooled) == 1
    assert it.ledger.rows[2].attempt == 0


async def test_tls_from_the_start_needs_no_starttls() -> None:
    it = house(replace(RELAY, tls=RelayTls.IMPLICIT, port=465, verifies=False))
    it.ledger.add(at_relay(1, "relay:relay.test:465/1/1"))
    await drained(it, DrainBell(NODE, MailClass.MAIN, (Path(1, "relay:relay.test:465/1/1"),)))
    (endpoint,) = it.receiver.endpoints
    assert (endpoint.is_implicit_tls, endpoint.demand) == (True, None)
    assert it.ledger.kinds() == ["delivered"]


async def test_tls_where_it_is_offered_falls_back_and_says_so() -> None:
    it = house(replace(RELAY, tls=RelayTls.OPPORTUNISTIC))
    broken = TlsFailed(
        SmtpReply.local(451, "4.7.5", "the TLS handshake failed"),
        scope=Scope.HOST,
        stage="starttls",
        result=TlsResult.VALIDATION_FAILURE,
    )
    it.receiver.refuse = [broken]
    it.ledger.add(at_relay(1))
    await drained(it, BELLS)
    assert [endpoint.tls for endpoint in it.receiver.endpoints] == [
        TlsMode.OPPORTUNISTIC,
        TlsMode.NONE,
    ]
    (event,) = it.ledger.events
    assert (event.kind, event.tls_result) == ("delivered", "validation-failure")


async def test_a_relay_that_lacks_the_tls_it_must_have_defers_and_rests() -> None:
    it = house()
    it.receiver.refuse = [TlsFailed(NO_TLS, scope=Scope.HOST, stage="starttls")]
    it.ledger.add(at_relay(1), at_relay(2))
    await drained(it, BELLS)
    assert it.ledger.kinds() == ["deferred"]
    assert len(it.receiver.endpoints) == 1
    assert len(it.shaper.cooled) == 1


async def test_a_message_that_needs_tls_waits_alone_where_the_relay_has_none() -> None:
    it = house(replace(RELAY, tls=RelayTls.NONE))
    it.receiver.tls = None
    it.ledger.add(at_relay(1), replace(at_relay(2), tls_need=TlsNeed.REQUIRED), at_relay(3))
    await drained(it, BELLS)
    assert sorted(it.ledger.kinds()) == ["deferred", "delivered", "delivered"]
    assert list(it.ledger.rows) == [2]
    assert it.shaper.cooled == []


def impostor(endpoint: Endpoint) -> Proven:
    """TLS with a certificate of somebody else's."""
    if endpoint.demand is not None:
        reply = SmtpReply.local(451, "4.7.5", "the certificate is not valid")
        raise TlsFailed(reply, scope=Scope.HOST, stage="starttls", result=TlsResult.WRONG_HOST)
    return Proven(is_encrypted=True)


@pytest.mark.parametrize("tls", [RelayTls.OPPORTUNISTIC, RelayTls.NONE])
async def test_a_login_goes_to_nobody_but_the_relay_it_is_meant_for(tls: RelayTls) -> None:
    relay = replace(RELAY, tls=tls, auth=RelayAuth.ANY, login="us", secret_ref="relay:1")
    it = house(relay)
    it = replace(it, ports=replace(it.ports, vault=OneSecret()))
    it.receiver.tls = impostor
    it.ledger.add(at_relay(1), at_relay(2))
    await drained(it, BELLS)
    (endpoint,) = it.receiver.endpoints
    assert endpoint.tls is TlsMode.REQUIRED
    assert endpoint.demand is not None
    assert it.ledger.kinds() == ["deferred"]
    assert len(it.shaper.cooled) == 1


async def test_a_login_that_may_travel_in_clear_goes_as_the_relay_s_tls_says() -> None:
    relay = replace(RELAY, tls=RelayTls.NONE, auth=RelayAuth.ANY, login="us", secret_ref="relay:1")
    it = house(replace(relay, allows_clear=True))
    it = replace(it, ports=replace(it.ports, vault=OneSecret()))
    it.ledger.add(at_relay(1))
    await drained(it, BELLS)
    assert [endpoint.tls for endpoint in it.receiver.endpoints] == [TlsMode.NONE]
    assert it.ledger.kinds() == ["delivered"]


@pytest.mark.parametrize("need", [TlsNeed.REQUIRED, TlsNeed.REQUIRETLS])
async def test_an_open_session_carries_no_mail_that_wants_more_than_it_has(need: TlsNeed) -> None:
    it = house(replace(RELAY, tls=RelayTls.OPPORTUNISTIC))
    it.receiver.tls = impostor
    it.ledger.add(at_relay(1), replace(at_relay(2), tls_need=need), at_relay(3))
    await drained(it, BELLS)
    assert sorted(path for each in it.receiver.delivered for path in each.forward_paths) == [
        "r1@peer.test",
        "r3@peer.test",
    ]
    assert list(it.ledger.rows) == [2]
    assert it.shaper.cooled == []


@pytest.mark.parametrize("tls", [RelayTls.OPPORTUNISTIC, RelayTls.STARTTLS])
async def test_requiretls_wants_a_relay_that_shows_who_it_is_even_if_nobody_else_asks(
    tls: RelayTls,
) -> None:
    it = house(replace(RELAY, tls=tls, verifies=False))
    it.receiver.tls = impostor
    asked = replace(at_relay(2), tls_need=TlsNeed.REQUIRETLS)
    it.ledger.add(asked, at_relay(1), replace(at_relay(3), tls_need=TlsNeed.REQUIRED))
    await drained(it, BELLS)
    assert list(it.ledger.rows) == [2]
    assert sorted(it.ledger.kinds()) == ["deferred", "delivered", "delivered"]
    assert it.shaper.cooled == []


async def test_a_report_about_requiretls_goes_encrypted_to_a_relay_that_nobody_verifies() -> None:
    it = house(replace(RELAY, tls=RelayTls.OPPORTUNISTIC, verifies=False))
    it.receiver.tls = impostor
    null = ReversePath("", "")
    it.ledger.add(replace(at_relay(1), tls_need=TlsNeed.REQUIRETLS, reverse_path=null))
    await drained(it, BELLS)
    assert it.ledger.kinds() == ["delivered"]
    assert [endpoint.tls for endpoint in it.receiver.endpoints] == [TlsMode.REQUIRED]


@pytest.mark.parametrize(
    "now",
    [
        replace(RELAY, tls=RelayTls.NONE),
        replace(RELAY, host="other.test"),
        replace(RELAY, auth=RelayAuth.ANY, login="other", secret_ref="relay:1"),
        None,
    ],
)
async def test_a_session_with_the_relay_of_old_carries_no_mail_for_the_new_one(
    now: Relay | None,
) -> None:
    it = house()
    source = it.ports.policy.current().sources[BELL.paths[0].source_id]
    feed = Feed(BELL.paths[0], BELL.mail_class, source)
    endpoint = Endpoint("relay.test", "127.0.0.1", 587, "", source.ehlo_name, TlsMode.REQUIRED)
    open_one = Grounds(await it.receiver.connect(endpoint), "relay.test", relay=RELAY)
    wire = WireMessage("", ("r1@peer.test",), b"")
    job = Job(at_relay(1), wire, TlsMode.OPPORTUNISTIC, "me.test", 1, relay=RELAY)
    memory = TlsMemory(it.ports.clock)
    assert await open_one.suits(feed, job, ports=it.ports, memory=memory)
    job.relay = now
    assert not await open_one.suits(feed, job, ports=it.ports, memory=memory)


V4 = tuple(f"192.0.2.{n}" for n in range(1, 9))
V6 = tuple(f"2001:db8::{n}" for n in range(1, 9))


async def test_a_source_asks_the_relay_at_addresses_of_its_own_family() -> None:
    it = house()
    it.resolver.hosts["relay.test"] = AddressAnswer(DnsStatus.OK, (*V6, "127.0.0.1"))
    it.ledger.add(at_relay(1))
    await drained(it, BELLS)
    assert [endpoint.address for endpoint in it.receiver.endpoints] == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["relay.test", "2001:db8::1"])
async def test_a_relay_of_the_other_family_is_the_source_s_trouble(host: str) -> None:
    site = f"relay:{host}:587/1/1"
    it = house(replace(RELAY, host=host))
    it.resolver.hosts["relay.test"] = AddressAnswer(DnsStatus.OK, V6)
    it.ledger.add(at_relay(1, site))
    await drained(it, DrainBell(NODE, MailClass.MAIN, (Path(1, site),)))
    assert it.receiver.endpoints == []
    (event,) = it.ledger.events
    assert event.scope == Scope.SOURCE.value
    assert "IPv6 addresses alone, and the source 127.0.100.1 is IPv4" in event.reply


async def test_a_dead_address_of_the_relay_is_tried_last_until_it_lives_again() -> None:
    it = house()
    it.resolver.hosts["relay.test"] = AddressAnswer(DnsStatus.OK, V4[:2])
    silent = SmtpReply.local(451, "4.4.1", "connect timed out")
    it.receiver.refuse = [TimedOut(silent, scope=Scope.HOST, stage="connect")]
    it.ledger.add(at_relay(1))
    await drained(it, BELLS)
    first, second = (endpoint.address for endpoint in it.receiver.endpoints)
    assert {first, second} == set(V4[:2])
    assert it.hosts.dead == {("127.0.100.1", first)}
    it.ledger.add(at_relay(2))
    await drained(it, BELLS)
    assert it.receiver.endpoints[-1].address == second
    it.receiver.refuse = [TimedOut(silent, scope=Scope.HOST, stage="connect")]
    it.ledger.add(at_relay(3))
    await drained(it, BELLS)
    assert it.receiver.endpoints[-1].address == first
    assert it.hosts.dead == {("127.0.100.1", second)}


async def test_the_load_is_spread_over_the_relay_s_addresses() -> None:
    firsts = set()
    for draw in (0.0, 0.4, 0.8):
        it = house()
        it.resolver.hosts["relay.test"] = AddressAnswer(DnsStatus.OK, V4[:3])
        it = replace(it, ports=replace(it.ports, draw=partial(float, draw)))
        it.ledger.add(at_relay(1))
        await drained(it, BELLS)
        firsts.add(it.receiver.endpoints[0].address)
    assert firsts == set(V4[:3])


async def test_it_is_asked_for_reports_unless_the_row_says_no() -> None:
    it = house()
    it.ledger.add(at_relay(1))
    await drained(it, BELLS)
    dsn = it.receiver.delivered[0].dsn
    assert dsn is not None
    assert dsn.notify == {Notify.FAILURE, Notify.DELAY}
    assert dsn.original_recipients == ("r1@peer.test",)
    quiet = house(replace(RELAY, asks_reports=False))
    quiet.ledger.add(at_relay(1))
    await drained(quiet, BELLS)
    assert quiet.receiver.delivered[0].dsn is None


async def test_recipients_that_share_a_transaction_are_each_named_in_its_request() -> None:
    it = house()
    sender = replace(policy().senders[1], return_path_mode=ReturnPathMode.PER_MESSAGE)
    it.policy.snapshot = replace(relayed(), senders={1: sender})
    one = at_relay(1)
    it.ledger.add(one, replace(at_relay(2), message_id=one.message_id, recipient_no=1))
    await drained(it, BELLS)
    (sent,) = it.receiver.delivered
    assert sent.dsn is not None
    assert sent.dsn.original_recipients == sent.forward_paths == ("r1@peer.test", "r2@peer.test")


async def test_mail_that_waits_for_its_domain_moves_to_the_relay() -> None:
    it = house()
    it.ledger.add(row(1))
    await drained(it, BELL)
    assert it.receiver.endpoints == []
    assert it.ledger.strays == [(1, SITE_1)]


async def test_mail_that_waits_for_a_relay_that_is_gone_moves_to_its_domain() -> None:
    it = world()
    it.ledger.add(at_relay(1))
    await drained(it, BELLS)
    assert it.receiver.endpoints == []
    assert it.ledger.strays == [(1, SITE)]


@pytest.mark.parametrize("asked", [Notify.NEVER, Notify.SUCCESS, None])
async def test_reports_that_go_to_the_client_are_those_it_asked_for(asked: Notify | None) -> None:
    snapshot = relayed()
    sender = replace(snapshot.senders[1], return_path_domain="")
    it = world(replace(snapshot, senders={1: sender}))
    it.receiver.tls = encrypted
    order = DsnOrder(notify=frozenset({asked})).to_text() if asked else ""
    it.ledger.add(replace(at_relay(1), dsn=order))
    await drained(it, BELLS)
    (sent,) = it.receiver.delivered
    assert sent.reverse_path == "news@sender.test"
    assert (sent.dsn.notify if sent.dsn else None) == ({asked} if asked else None)

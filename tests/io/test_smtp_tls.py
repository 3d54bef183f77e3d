"""The SMTP client looks at who a server is before it says anything under TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mailcore.outcome import Scope, TlsPolicy, TlsResult
from mailcore.policy.words import TlsMode
from mailcore.ports import TlsFailed
from mailcore.security import Level, Proof, Proven, Tlsa, TlsDemand, public_key_of
from mailio.smtp import SmtpConnector
from tests.support.certificates import DAY, Authority, Shown, self_signed, tlsa_of
from tests.support.smtp_peer import Heard, Peer, Script, obedient, serving
from tests.support.smtp_session import PATIENT, endpoint, hasty, message, transact

HOST = "mx.test"
PKIX = TlsDemand(Level.AUTHENTICATED, TlsPolicy.STS, Proof.PKIX, (HOST,))
GONE = timedelta(seconds=-60)


def dane(*records: Tlsa, names: tuple[str, ...] = (HOST,)) -> TlsDemand:
    return TlsDemand(Level.AUTHENTICATED, TlsPolicy.TLSA, Proof.TLSA, names, records)


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority.root()


@pytest.fixture(scope="module")
def below(root: Authority) -> Authority:
    return root.below("Test Below")


def shows(shown: Shown, directory: Path, asked: list[str | None] | None = None) -> Script:
    """A server that offers STARTTLS and shows this chain."""
    context = shown.context(directory)

    def note(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        if asked is not None:
            asked.append(name)

    context.sni_callback = note

    async def script(peer: Peer) -> None:
        await peer.greet(("STARTTLS", "PIPELINING"))
        await peer.hear_verb("STARTTLS")
        peer.say("220 go")
        await peer.start_tls(context)
        await peer.hear_verb("EHLO")
        peer.say("250-peer.test", "250 PIPELINING")
        for verb, answer in (("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go")):
            await peer.hear_verb(verb)
            peer.say(answer)
        await peer.take_content()
        peer.say("250 taken")
        await peer.stall()

    return script


async def tried(
    shown: Shown,
    demand: TlsDemand,
    directory: Path,
    *,
    ca_file: str = "",
    asked: list[str | None] | None = None,
) -> Proven | TlsFailed:
    """Send a message to a server that shows this; return what was proven, or the refusal.

    Of a server that is refused nothing but the handshake must be heard.
    """
    failure: TlsFailed
    async with serving(shows(shown, directory, asked)) as heard:
        connector = SmtpConnector(PATIENT, confine_to_loopback=True, ca_file=ca_file)
        there = endpoint(heard, TlsMode.REQUIRED, host=HOST, demand=demand)
        try:
            connection = await connector.connect(there)
        except TlsFailed as exc:
            failure = exc
        else:
            assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
            proven: Proven = connection.proven
            await connection.close()
            return proven
        assert heard.lines == ["EHLO out.example.com", "STARTTLS"]
    told = failure.scope, failure.stage, str(failure.reply.enhanced)
    assert told == (Scope.HOST, "starttls", "4.7.5")
    return failure


def below_authority(record: Tlsa, name: str) -> Proven:
    return Proven(True, tlsa=frozenset({record}), tlsa_names=frozenset({name}))


def result_of(outcome: Proven | TlsFailed) -> TlsResult:
    assert isinstance(outcome, TlsFailed), outcome
    return outcome.result


# --- PKIX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mx.test", "MX.test", "*.test.example", "other.test"])
async def test_a_valid_certificate_proves_the_names_it_has(
    name: str, root: Authority, below: Authority, tmp_path: Path
) -> None:
    wanted = {"*.test.example": "mx.test.example"}.get(name, name.lower())
    demand = TlsDemand(Level.AUTHENTICATED, TlsPolicy.STS, Proof.PKIX, (wanted, "x.test"))
    proven = await tried(below.issue(name), demand, tmp_path, ca_file=root.ca_file(tmp_path))
    assert proven == Proven(True, frozenset({wanted}))


@pytest.mark.parametrize("address", ["192.0.2.25", "2001:db8::25"])
async def test_an_address_is_proven_by_its_own_field_alone(
    address: str, root: Authority, tmp_path: Path
) -> None:
    demand = TlsDemand(Level.AUTHENTICATED, TlsPolicy.OPERATOR, Proof.PKIX, (address,))
    ca_file = root.ca_file(tmp_path)
    proven = await tried(root.issue(HOST, address), demand, tmp_path, ca_file=ca_file)
    assert proven == Proven(True, frozenset({address}))
    for wrong in ("192.0.2.26", "2001:db8::26", "*.0.2.25"):
        outcome = await tried(root.issue(wrong), demand, tmp_path, ca_file=ca_file)
        assert result_of(outcome) is TlsResult.WRONG_HOST


@pytest.mark.parametrize("kind", ["wrong name", "only a subject", "no name", "wildcard too wide"])
async def test_a_certificate_for_another_name_is_refused(
    kind: str, root: Authority, tmp_path: Path
) -> None:
    shown = {
        "wrong name": root.issue("mx.other.test"),
        "only a subject": root.issue(common=HOST),
        "no name": root.issue(),
        "wildcard too wide": root.issue("*.test"),
    }[kind]
    outcome = await tried(shown, PKIX, tmp_path, ca_file=root.ca_file(tmp_path))
    assert result_of(outcome) is TlsResult.WRONG_HOST


async def test_expired_unknown_and_self_signed_are_told_apart(
    root: Authority, below: Authority, tmp_path: Path
) -> None:
    ca_file = root.ca_file(tmp_path)
    half = below.issue(HOST)
    alone = Shown(half.chain[:1], half.key)
    for shown, result in (
        (below.issue(HOST, ends=GONE), TlsResult.EXPIRED),
        (self_signed(HOST), TlsResult.NOT_TRUSTED),
        (Authority.root("Another").issue(HOST), TlsResult.NOT_TRUSTED),
        (alone, TlsResult.NOT_TRUSTED),
    ):
        assert result_of(await tried(shown, PKIX, tmp_path, ca_file=ca_file)) is result


async def test_without_a_demand_any_certificate_will_do(tmp_path: Path) -> None:
    demand = TlsDemand(Level.ENCRYPTED)
    for shown in (self_signed("else.test", ends=GONE), Authority.root().issue()):
        assert await tried(shown, demand, tmp_path) == Proven(True)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_tls_of_old_is_taken_where_the_other_choice_is_none_at_all(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    context = self_signed(HOST).context(tmp_path)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")

    async def script(peer: Peer) -> None:
        await peer.greet(("STARTTLS",))
        await peer.hear_verb("STARTTLS")
        peer.say("220 go")
        await peer.start_tls(context)
        await peer.hear_verb("EHLO")
        peer.say("250 peer.test")
        await peer.stall()

    async with serving(script) as heard:
        connector = SmtpConnector(PATIENT, confine_to_loopback=True)
        connection = await connector.connect(endpoint(heard))
        assert connection.session.tls_version == version.name.replace("_", ".")
        await connection.close()
        with pytest.raises(TlsFailed):
            await connector.connect(endpoint(heard, TlsMode.REQUIRED))


# --- DANE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
async def test_dane_ee_knows_a_certificate_whatever_its_name_and_date(
    selector: int, matching: int, tmp_path: Path
) -> None:
    shown = self_signed("else.test", ends=GONE)
    record = shown.tlsa(3, selector, matching)
    wrong = Tlsa(3, 1, 1, b"x" * 32)
    proven = await tried(shown, dane(wrong, record), tmp_path)
    assert proven == Proven(True, tlsa=frozenset({record}))


async def test_dane_refuses_a_certificate_that_no_record_means(
    below: Authority, tmp_path: Path
) -> None:
    shown = below.issue(HOST)
    for records in (
        (self_signed(HOST).tlsa(3, 1, 1),),
        (shown.tlsa(3, 1, 1, depth=1),),
        (Authority.root().issue(HOST).tlsa(2, 0, 1, depth=1),),
        (shown.tlsa(2, 0, 1, depth=0),),
    ):
        outcome = await tried(shown, dane(*records), tmp_path)
        assert result_of(outcome) is TlsResult.VALIDATION_FAILURE


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2])
async def test_dane_ta_trusts_what_the_authority_of_the_record_issued(
    selector: int, matching: int, depth: int, below: Authority, tmp_path: Path
) -> None:
    shown = below.issue("peer.test")
    record = shown.tlsa(2, selector, matching, depth=depth)
    demand = dane(record, names=(HOST, "peer.test"))
    assert await tried(shown, demand, tmp_path) == below_authority(record, "peer.test")


@pytest.mark.parametrize("selector", [0, 1])
async def test_an_authority_given_in_full_need_not_be_shown(
    selector: int, root: Authority, below: Authority, tmp_path: Path
) -> None:
    whole = below.issue(HOST)
    shown = Shown(whole.chain[:2], whole.key)
    record = tlsa_of(root.chain[0], 2, selector, 0)
    assert await tried(shown, dane(record), tmp_path) == below_authority(record, HOST)


async def test_dane_ta_minds_names_dates_purpose_and_who_may_issue(
    root: Authority, below: Authority, tmp_path: Path
) -> None:
    meant = tlsa_of(root.chain[0], 2, 0, 1)
    impostor = root.below("No Authority", is_ca=False)
    alone = self_signed(HOST)
    stranger = Shown((alone.chain[0], *root.chain), alone.key)
    for shown, result in (
        (below.issue("else.test"), TlsResult.WRONG_HOST),
        (below.issue(HOST, ends=GONE), TlsResult.EXPIRED),
        (below.issue(HOST, begins=DAY, ends=3 * DAY), TlsResult.NOT_TRUSTED),
        (below.issue(HOST, for_clients=True), TlsResult.NOT_TRUSTED),
        (impostor.issue(HOST), TlsResult.NOT_TRUSTED),
        (stranger, TlsResult.NOT_TRUSTED),
    ):
        assert result_of(await tried(shown, dane(meant), tmp_path)) is result


async def test_the_server_is_asked_for_the_name_the_records_are_at(tmp_path: Path) -> None:
    shown, asked = self_signed(HOST), list[str | None]()
    record = shown.tlsa(3, 1, 1)
    await tried(shown, dane(record, names=("real.host.test", HOST)), tmp_path, asked=asked)
    await tried(shown, TlsDemand(Level.ENCRYPTED), tmp_path, asked=asked)
    assert asked == ["real.host.test", HOST]


@pytest.mark.parametrize(
    "name", ["\\001" * 20 + ".evil.test", "a..b.test", ".a.test", "x" * 64 + ".test", "*.a.test"]
)
async def test_a_host_that_no_server_can_be_called_by_is_asked_for_nothing(
    name: str, tmp_path: Path
) -> None:
    asked = list[str | None]()
    async with serving(shows(self_signed(HOST), tmp_path, asked)) as heard:
        connector = SmtpConnector(PATIENT, confine_to_loopback=True)
        connection = await connector.connect(endpoint(heard, host=name))
        assert connection.proven.is_encrypted
        await transact(connection, message())
        await connection.close()
    assert asked == [None]


async def test_starttls_that_was_taken_away_is_told_as_such() -> None:
    async with serving(obedient()) as heard:
        with pytest.raises(TlsFailed) as caught:
            await _connect(heard)
    assert caught.value.result is TlsResult.NOT_OFFERED
    assert str(caught.value.reply.enhanced) == "4.7.4"
    assert not any(line.startswith("MAIL") for line in heard.lines)


async def _connect(heard: Heard) -> None:
    await SmtpConnector(PATIENT).connect(endpoint(heard, TlsMode.REQUIRED, demand=PKIX))


def test_the_key_is_cut_out_of_a_certificate_as_it_stands_there(below: Authority) -> None:
    for certificate in (*below.issue(HOST).chain, self_signed().chain[0]):
        der = certificate.public_bytes(serialization.Encoding.DER)
        assert public_key_of(der) == certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for end in range(len(der) - 1):
            with pytest.raises(ValueError, match="certificate"):
                public_key_of(der[:end])


# --- TLS before the greeting ----------------------------------------------------------------------


async def test_tls_from_the_first_octet_is_checked_before_anything_is_said(
    root: Authority, tmp_path: Path
) -> None:
    context = root.issue("relay.test").context(tmp_path)

    async def script(peer: Peer) -> None:
        await peer.start_tls(context)
        await obedient()(peer)

    async with serving(script) as heard:
        connector = SmtpConnector(PATIENT, confine_to_loopback=True, ca_file=root.ca_file(tmp_path))
        where = endpoint(heard, TlsMode.REQUIRED, host="relay.test", is_implicit_tls=True)
        demand = TlsDemand(Level.AUTHENTICATED, TlsPolicy.OPERATOR, Proof.PKIX, ("relay.test",))
        connection = await connector.connect(replace(where, demand=demand))
        assert connection.session.tls_version.startswith("TLSv1")
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
        await connection.close()
        assert heard.lines[0] == "EHLO out.example.com"
        heard.lines.clear()
        other = TlsDemand(Level.AUTHENTICATED, TlsPolicy.OPERATOR, Proof.PKIX, ("other.test",))
        with pytest.raises(TlsFailed):
            await connector.connect(replace(where, host="other.test", demand=other))
        assert heard.lines == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_greeting_that_comes_with_the_end_of_the_handshake_is_heard(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    context = self_signed("relay.test").context(tmp_path)
    context.minimum_version = context.maximum_version = version

    async def script(peer: Peer) -> None:
        came, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(came, going, server_side=True)

        async def after(step: Callable[[], object]) -> None:
            while True:
                try:
                    step()
                    return
                except ssl.SSLWantReadError:
                    peer.writer.write(going.read())
                    came.write(await peer.reader.read(65536) or b"\0")

        await after(tls.do_handshake)
        tls.write(b"220 relay.test ESMTP\r\n")
        await after(lambda: tls.read(65536))
        tls.write(b"250 relay.test\r\n")
        peer.writer.write(going.read())
        await peer.stall()

    async def meet() -> str:
        async with serving(script) as heard:
            connector = SmtpConnector(hasty("greeting"), confine_to_loopback=True)
            where = endpoint(heard, TlsMode.REQUIRED, host="relay.test", is_implicit_tls=True)
            connection = await connector.connect(where)
            await connection.close()
            return connection.session.tls_version

    # asyncio's own loop hands both over in one go; uvloop does not.
    assert asyncio.run(meet()) == version.name.replace("_", ".")

"""Our client and a relay that wants to know it: Postfix, which asks Dovecot (RFC 4954)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mailcore.outcome import Scope
from mailcore.policy.words import TlsMode
from mailcore.ports import ConnectFailed, WireMessage
from mailcore.transaction import Credentials, Mechanism
from mailio.smtp import SmtpConnector
from mailio.smtp_protocol import SmtpProtocol
from tests.io.interop.conftest import Fresh
from tests.io.interop.peers import HEADER, Peer, send_all
from tests.support.services import Dovecot, Postfix
from tests.support.smtp_peer import Heard
from tests.support.smtp_session import endpoint

PASSWORD = "pässwörd with = all % of <it>"
CLEAR, TLS = TlsMode.NONE, TlsMode.REQUIRED


VARIANTS: Mapping[str, Mapping[str, str]] = {
    "all": {},
    "no plain": {"smtpd_sasl_mechanism_filter": "!plain, static:rest"},
    "only cram": {"smtpd_sasl_mechanism_filter": "cram-md5"},
    "tls only": {"smtpd_tls_auth_only": "yes"},
}


@pytest.fixture(scope="module")
def ports(dovecot: Dovecot, postfix: Postfix, postfix_peer: Peer) -> Mapping[str, int]:
    """Ports of one Postfix that differ in what they offer; all know the user `us`."""
    dovecot.add_user("us", PASSWORD)
    return dict(zip(VARIANTS, postfix.submission(*VARIANTS.values()), strict=True))


async def open_session(
    port: int, tls: TlsMode, secret: str = PASSWORD, **options: Any
) -> SmtpProtocol:
    credentials = Credentials("us", secret, **options)
    where = endpoint(Heard(port=port), tls, credentials=credentials)
    return await SmtpConnector(confine_to_loopback=True).connect(where)


@pytest.mark.parametrize(
    ("variant", "mechanism", "tls", "used"),
    [
        ("all", None, TLS, "PLAIN"),
        ("all", Mechanism.LOGIN, TLS, "LOGIN"),
        ("all", Mechanism.CRAM_MD5, TLS, "CRAM-MD5"),
        ("tls only", None, TLS, "PLAIN"),
        ("no plain", None, TLS, "LOGIN"),
        ("only cram", None, TLS, "CRAM-MD5"),
        ("all", None, CLEAR, "CRAM-MD5"),
        ("all", Mechanism.PLAIN, CLEAR, "PLAIN"),
    ],
)
async def test_the_relay_knows_us_by_each_mechanism_and_takes_our_mail(
    ports: Mapping[str, int],
    postfix_peer: Peer,
    fresh: Fresh,
    *,
    variant: str,
    mechanism: Mechanism | None,
    tls: TlsMode,
    used: str,
) -> None:
    (to,) = fresh("auth")
    content = HEADER % (b"auth", b"auth") + b".x\r\n"
    connection = await open_session(
        ports[variant], tls, mechanism=mechanism, allows_clear=tls is CLEAR
    )
    before = postfix_peer.log().count(f"sasl_method={used}, sasl_username=us")
    message = WireMessage("news@shop.test", (to,), content)
    assert await send_all(connection, [message, message]) == [[(250, "dot")]] * 2
    await connection.close()
    assert postfix_peer.arrived(to, count=2) == [content] * 2
    assert postfix_peer.log().count(f"sasl_method={used}, sasl_username=us") == before + 2


@pytest.mark.parametrize("mechanism", [Mechanism.PLAIN, Mechanism.LOGIN, Mechanism.CRAM_MD5])
async def test_a_wrong_password_keeps_the_source_waiting_and_is_told_to_nobody(
    ports: Mapping[str, int], mechanism: Mechanism
) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await open_session(ports["all"], TLS, "wr0ng-word", mechanism=mechanism)
    error = caught.value
    assert (error.reply.code, error.stage, error.scope) == (535, "auth", Scope.SOURCE)
    assert "wr0ng-word" not in str(error)


@pytest.mark.parametrize(
    ("variant", "tls", "options", "said"),
    [
        ("tls only", CLEAR, {"allows_clear": True}, "4.7.4 the relay offers no AUTH"),
        ("only cram", TLS, {"mechanism": Mechanism.PLAIN}, "4.7.4 the relay offers no AUTH"),
        ("all", CLEAR, {}, "4.7.11 the relay has no TLS session with us"),
    ],
)
async def test_a_relay_that_offers_nothing_we_may_use_keeps_the_host_waiting(
    ports: Mapping[str, int], variant: str, tls: TlsMode, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConnectFailed, match=said) as caught:
        await open_session(ports[variant], tls, **options)
    assert (caught.value.stage, caught.value.scope) == ("auth", Scope.HOST)


async def test_a_relay_that_we_tell_nothing_refuses_our_mail_and_no_recipient(
    ports: Mapping[str, int],
) -> None:
    connection = await SmtpConnector(confine_to_loopback=True).connect(
        endpoint(Heard(port=ports["all"]), TLS)
    )
    message = WireMessage("news@shop.test", ("a@interop.test",), HEADER % (b"x", b"x"))
    [[(code, stage)]] = await send_all(connection, [message])
    await connection.close()
    assert (code, stage) == (554, "rcpt")

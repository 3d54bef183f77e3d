"""Fixtures of interoperation: servers that take mail, as peers; an installation of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from tests.io.interop.peers import DOMAIN, Peer, maildir_of, taking_peer, tls_fault_of
from tests.support.services import Dovecot, Exim, OpenSmtpd, Postfix
from tests.support.services.jail import Smarthost
from tests.support.smtp_tls import server_context
from tests.support.smtpd import HOST, POLICY, TOKEN, House, Listening, furnished

Fresh = Callable[..., list[str]]


@dataclass(frozen=True)
class Installation:
    """What our listeners take, and where they listen."""

    house: House
    own: Listening
    strangers: Listening

    @property
    def smarthost(self) -> Smarthost:
        """Return what a server has to know to send its mail on to us."""
        return Smarthost(
            open_port=self.own.port,
            port=self.strangers.port,
            tls_port=self.strangers.tls_port,
            user="news",
            password=TOKEN,
            certificate=self.house.directory / "cert.pem",
            host=HOST,
        )

    def count(self, recipient: str) -> int:
        """Return how many messages are in the queue for a recipient."""
        sql = "SELECT count(*) FROM ledger_row WHERE recipient = %s"
        return int(self.house.query(sql, recipient)[0][0])

    def taken(self, recipient: str) -> dict[str, bytes]:
        """Return what is in the queue for a recipient, by its id; nothing may be on its way."""
        sql = "SELECT message_id::text FROM ledger_row WHERE recipient = %s ORDER BY id"
        numbers = [row[0] for row in self.house.query(sql, recipient)]
        contents = [content for _, _, content in self.house.accepted(recipient)]
        return dict(zip(numbers, contents, strict=True))


@pytest.fixture(scope="session")
def postfix_peer(dovecot: Dovecot, postfix: Postfix) -> Peer:
    """Postfix."""
    dovecot.add_user("interop")
    # Once for all: it waits until a changed table has cooled.
    postfix.route(f"@{DOMAIN}", "interop")
    return Peer(
        f"Postfix {postfix.version}",
        postfix.port,
        log=postfix.log,
        queue_size=postfix.queue_size,
        look=maildir_of(dovecot.maildir("interop")),
    )


@pytest.fixture(scope="session")
def exim_peer(exim: Exim) -> Peer:
    """Exim."""
    return Peer(
        f"Exim {exim.version}",
        exim.port,
        log=exim.log,
        queue_size=exim.queue_size,
        look=maildir_of(exim.maildir),
    )


@pytest.fixture(scope="session")
def opensmtpd_peer(opensmtpd: OpenSmtpd) -> Peer:
    """OpenSMTPD."""
    return Peer(
        f"OpenSMTPD {opensmtpd.version}",
        opensmtpd.port,
        log=opensmtpd.log,
        queue_size=opensmtpd.queue_size,
        look=maildir_of(opensmtpd.maildir),
        has_smtputf8=False,
        tls_fault=tls_fault_of(opensmtpd.port),
    )


@pytest.fixture(scope="session")
def aiosmtpd_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """aiosmtpd, in this process."""
    with taking_peer(server_context(tmp_path_factory.mktemp("aiosmtpd"))) as peer:
        yield peer


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Peer:
    """The server a test is for, by name."""
    found = request.getfixturevalue(f"{request.param}_peer")
    assert isinstance(found, Peer)
    return found


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Fresh:
    """Make addresses that no other test has; every server takes mail for them."""
    unique = re.sub(r"\W+", "-", request.node.name.lower())[-40:].strip("-")
    return lambda *names: [f"{name}-{unique}@{DOMAIN}" for name in names]


# ── our listener ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation of ours that listens twice: to this machine's programs, and to any that log
    in."""
    acme = replace(POLICY.accounts[1], max_message_bytes=4 << 20)
    policy = replace(POLICY, accounts={**POLICY.accounts, 1: acme})
    with (
        furnished(tmp_path_factory.mktemp("interop")) as house,
        Listening(house, policy=policy) as own,
        Listening(house, policy=policy, networks=()) as strangers,
    ):
        yield Installation(house, own, strangers)
        # Servers keep their sessions for the next message, and need not be waited for.
        for one in (own, strangers):
            one.stop(timeout_s=0.0)

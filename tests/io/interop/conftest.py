"""Fixtures of interoperation: servers that take mail, as peers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.io.interop.peers import DOMAIN, Peer, maildir_of, taking_peer, tls_fault_of
from tests.support.services import Dovecot, Exim, OpenSmtpd, Postfix
from tests.support.smtp_tls import server_context

Fresh = Callable[..., list[str]]


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

"""Reports to senders, the whole way: a client, our listener, a Postfix that refuses, the fleet,
and a mailbox in which the report arrives."""

from __future__ import annotations

import contextlib
import email
import email.policy
import poplib
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from mailcore.classify.dsn import DsnAction, parse_dsn
from mailcore.classify.mime import read_part
from tests.e2e.services.conftest import Served
from tests.support.fleet import eventually
from tests.support.services import Dovecot, Postfix
from tests.support.services.postfix import REFUSING_DOMAIN

TOP = Path(__file__).resolve().parents[3]
MX_HOST, MX_ADDRESS = "mx.refusing.test", "127.0.90.3"
MESSAGE = (
    b"From: desk@sender.test\r\nTo: nobody@refusing.test\r\nSubject: order 12\r\n"
    b"Message-ID: <order.12@sender.test>\r\n\r\nThe body of the order.\r\n"
)


@contextlib.contextmanager
def listener(environment: dict[str, str], directory: Path) -> Iterator[int]:
    """Run the listener beside a fleet, for hosts of loopback; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    ready = directory / "ready"
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.smtpd"],
        env=environment
        | {
            "PYTHONPATH": f"{TOP}:{TOP / 'platform'}",
            "SMTPD_LISTEN": f"127.0.0.1:{port}",
            "SMTPD_NETWORKS": "127.0.0.0/8:demo",
            "SMTPD_HOST": "smtp.sender.test",
            "READY_FILE": str(ready),
        },
        cwd=TOP,
    )
    try:
        eventually(ready.exists)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=40)


def lying(dovecot: Dovecot, user: str, password: str) -> list[bytes]:
    """Return what lies in a mailbox."""
    line = poplib.POP3_SSL("localhost", dovecot.pop3s_port, context=dovecot.tls())
    try:
        line.user(user)
        line.pass_(password)
        count = line.stat()[0]
        return [b"\r\n".join(line.retr(n)[1]) + b"\r\n" for n in range(1, count + 1)]
    finally:
        line.quit()


@pytest.fixture(scope="module")
def reports(
    served: Served, dovecot: Dovecot, postfix: Postfix, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What comes back of one message to four, by the action it tells."""
    running = served.running
    password = postfix.add_user("desk")
    postfix.add_user("desk-ann")
    postfix.route("desk@sender.test", "desk")
    postfix.route(f"ann@{REFUSING_DOMAIN}", "desk-ann")
    postfix.listen(MX_ADDRESS, running.settings.smtp_port)
    running.lab.set_record(MX_HOST, "A", [MX_ADDRESS])
    for domain in (REFUSING_DOMAIN, "sender.test"):
        running.lab.set_record(domain, "MX", [f"10 {MX_HOST}."])
    with (
        listener(running.fleet.environment, tmp_path_factory.mktemp("smtpd")) as port,
        smtplib.SMTP("127.0.0.1", port, timeout=20) as client,
    ):
        client.ehlo()
        assert client.has_extn("dsn")
        client.mail("desk@sender.test", ["RET=FULL", "ENVID=order+2B12"])
        for user, options in (
            ("nobody", ["NOTIFY=FAILURE", "ORCPT=rfc822;Nobody@list.test"]),
            ("ann", ["NOTIFY=SUCCESS"]),
            ("gone", ["NOTIFY=NEVER"]),
            ("lost", ["NOTIFY=SUCCESS,DELAY"]),
        ):
            assert client.rcpt(f"{user}@{REFUSING_DOMAIN}", options)[0] == 250
        assert client.data(MESSAGE)[0] == 250
        # One without a sender: nobody can be told.
        client.sendmail("", [f"void@{REFUSING_DOMAIN}"], MESSAGE)
    owed = "SELECT count(*) FROM ledger_row WHERE recipient LIKE '%%@refusing.test'"
    eventually(lambda: running.one(owed) == 0, what=postfix.log)
    eventually(lambda: running.applied("dsn"))
    eventually(lambda: len(lying(dovecot, "desk", password)) == 2, what=postfix.log)
    found = {}
    for octets in lying(dovecot, "desk", password):
        dsn = parse_dsn(read_part(octets))
        assert dsn is not None
        found[dsn.recipients[0].action.value] = octets
    assert running.one("SELECT count(*) FROM ledger_idempotency WHERE account_id = 0") == 2
    return found


def test_a_refused_recipient_comes_back_to_the_sender_as_a_report(
    reports: dict[str, bytes],
) -> None:
    octets = reports[DsnAction.FAILED.value]
    letter = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(letter, EmailMessage)
    assert letter["Return-Path"] == "<>"
    assert letter["From"] == "Mail Delivery System <mailer-daemon@sender.test>"
    assert letter["Auto-Submitted"] == "auto-replied"
    assert letter["In-Reply-To"] == "<order.12@sender.test>"
    assert letter["DKIM-Signature"] is not None
    _, status, returned = letter.iter_parts()
    assert b"Original-Envelope-Id: order+12\r\nReporting-MTA: dns; " in octets
    assert returned.get_content_type() == "message/rfc822"
    assert b"The body of the order." in returned.as_bytes()
    assert status.get_content_type() == "message/delivery-status"
    dsn = parse_dsn(read_part(octets))
    assert dsn is not None
    (recipient,) = dsn.recipients
    assert recipient.final == f"nobody@{REFUSING_DOMAIN}"
    assert recipient.original == "Nobody@list.test"
    assert recipient.remote_mta == MX_HOST
    assert recipient.reply().code == 550


def test_a_receipt_is_told_by_us_and_those_who_asked_for_silence_get_it(
    reports: dict[str, bytes],
) -> None:
    octets = reports[DsnAction.RELAYED.value]
    dsn = parse_dsn(read_part(octets))
    assert dsn is not None
    assert [one.final for one in dsn.recipients] == [f"ann@{REFUSING_DOMAIN}"]
    assert b"text/rfc822-headers" in octets

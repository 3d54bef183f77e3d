"""Clients on sockets, a real ledger and spool behind: what gets 250 is there, as it was sent."""

from __future__ import annotations

import smtplib
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import pytest

from mailcore.events import recipient_hash
from tests.support.smtpd import (
    ENVELOPE,
    HOST,
    MESSAGE,
    POLICY,
    TOKEN,
    House,
    Listening,
    Wire,
    trusting,
)


def send(port: int, message: bytes, *to: str) -> tuple[int, bytes]:
    """Send as an own host; return the final reply."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="pc.test", timeout=60) as client:
        client.ehlo()
        client.mail("news@shop.test")
        for one in to or ("a@example.com",):
            client.rcpt(one)
        return client.data(message)


# ── clients ───────────────────────────────────────────────────────────────────────────────────


def test_smtplib_logs_in_over_starttls_and_its_message_is_in_the_queue(
    house: House, server: Listening
) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "news@shop.test", "a@example.com", "b@x.test"
    message["X-Postfleet-Campaign"], message["Subject"] = "spring", "Grüße"
    message.set_content("schön\n.\n..\n")
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname="pc.test", timeout=60) as client:
        client.starttls(context=trusting(house.directory))
        client.login("news", TOKEN)
        assert client.send_message(message, to_addrs=["a@example.com", "b@x.test"]) == {}
    rows = house.accepted()
    assert [row[:2] for row in rows] == [
        ("a@example.com", "news@shop.test"),
        ("b@x.test", "news@shop.test"),
    ]
    content = rows[0][2].decode()
    stamp = f"by {HOST} (Postfleet) with ESMTPSA id "
    assert content.startswith(f"Received: from pc.test\r\n\t{stamp}")
    assert "127.0.0.1" not in content
    assert "X-Postfleet" not in content
    assert "Bcc" not in content
    assert content.endswith("schön\r\n.\r\n..\r\n")
    assert house.query("SELECT label FROM campaign") == [("spring",)]
    assert house.query("SELECT last_used_at IS NOT NULL FROM accounts_apitoken") == [(True,)]


def test_smtplib_speaks_implicit_tls(house: House, server: Listening) -> None:
    context = trusting(house.directory)
    with smtplib.SMTP_SSL("127.0.0.1", server.tls_port, context=context, timeout=60) as client:
        client.login("1", TOKEN)
        client.sendmail("news@shop.test", ["a@example.com"], MESSAGE)
    assert b"with ESMTPSA id" in house.accepted()[0][2]


def test_requiretls_stays_with_the_message(house: House, server: Listening) -> None:
    context = trusting(house.directory)
    with smtplib.SMTP_SSL("127.0.0.1", server.tls_port, context=context, timeout=10) as client:
        client.login("1", TOKEN)
        client.sendmail("news@shop.test", ["a@example.com"], MESSAGE, ["REQUIRETLS", "RET=FULL"])
        client.sendmail("news@shop.test", ["b@example.com"], MESSAGE)
    asked = house.query("SELECT tls_need FROM ledger_lane ORDER BY 1")
    assert asked == [(0,), (2,)]
    assert house.query("SELECT dsn FROM ledger_row ORDER BY 1") == [("S",), ("S RH Q",)]


def test_an_own_host_needs_no_login(house: House, server: Listening) -> None:
    code, text = send(server.port, MESSAGE)
    assert (code, text[:16]) == (250, b"2.0.0 queued as ")
    ((_, _, content),) = house.accepted()
    assert content.split(b"\r\n\r\n", 1)[1] == b".dot\r\n\r\nbye\r\n"
    queue_id = text.split()[-1].decode()
    assert house.query("SELECT message_id::text FROM ledger_row") == [(queue_id,)]


def test_a_stranger_sends_nothing(house: House) -> None:
    with Listening(house, networks=()) as server, Wire(server.port) as wire:
        wire.reply()
        assert wire.ask(b"EHLO x\r\n" + b"")[0].startswith(f"250-{HOST}")
        assert [r[:9] for r in wire.ask(ENVELOPE, replies=3)] == [
            "530 5.7.0",
            "503 5.5.1",
            "503 5.5.1",
        ]
    assert house.accepted() == []


def test_a_client_may_end_its_side_and_still_hear_the_answer(server: Listening) -> None:
    with Wire(server.port) as wire:
        wire.reply()
        wire.ask(b"EHLO x\r\n")
        wire.ask(ENVELOPE, replies=3)
        wire.send(MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        wire.end()
        assert wire.reply().startswith("250 2.0.0 queued as ")
        assert wire.reply() == ""


# ── credentials ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("news", "pf_wrong"),
        ("other", TOKEN),
        ("expired", "pf_expired"),
        ("off", "pf_off"),
        ("reader", "pf_reader"),
        ("news", ""),
        ("news", "x" * 5000),
    ],
)
def test_what_is_no_good_token_is_refused(
    house: House, server: Listening, user: str, password: str
) -> None:
    if not house.query("SELECT 1 FROM accounts_apitoken WHERE name = 'off'"):
        house.add_token("expired", "pf_expired", expires_at="2020-01-01")
        house.add_token("off", "pf_off", is_active=False)
        house.add_token("reader", "pf_reader", scopes=["messages:read"])
    context = trusting(house.directory)
    with smtplib.SMTP_SSL("127.0.0.1", server.tls_port, context=context, timeout=60) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(user, password)
        assert refused.value.smtp_code == 535


def test_a_message_of_the_very_size_of_the_account_passes(house: House) -> None:
    """Our Received field does not count."""
    size = 900
    policy = replace(POLICY, accounts={1: replace(POLICY.accounts[1], max_message_bytes=size)})
    head = MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    whole = head + b"x" * (size - len(head) - 2) + b"\r\n"
    with Listening(house, policy=policy) as server:
        assert send(server.port, whole)[0] == 250
        assert send(server.port, whole[:-2] + b"x\r\n")[0] == 552


def test_a_token_switched_off_ends_what_an_open_session_may_do(house: House) -> None:
    house.add_token("brief", "pf_brief")
    with Listening(house, networks=()) as server:
        context = trusting(house.directory)
        with smtplib.SMTP_SSL("127.0.0.1", server.tls_port, context=context, timeout=60) as client:
            client.login("brief", "pf_brief")
            client.sendmail("news@shop.test", ["a@example.com"], MESSAGE)
            house.query("DELETE FROM accounts_apitoken WHERE name = 'brief'")
            until = time.monotonic() + 60
            code = 250
            while code == 250 and time.monotonic() < until:
                client.mail("news@shop.test")
                client.rcpt("a@example.com")
                code = client.data(MESSAGE)[0]
            assert code == 535


# ── what is refused, and where ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("From: a@elsewhere.test", "550 5.7.1 elsewhere.test is no sending domain"),
        ("Subject: x", "554 5.6.0 the message has no From field"),
        ("From: a@shop.test\r\nX-Postfleet-Sender: 99", "550 5.7.1 X-Postfleet-Sender: "),
        ("From: a@shop.test\r\nX-Postfleet-Send-At: soon", "554 5.6.0 X-Postfleet-Send-At: "),
        ("From: a@shop.test\r\nX-Postfleet-Color: red", "554 5.6.0 X-Postfleet-Color: "),
        ("From: a@shop.test\r\nFrom: b@shop.test", "554 5.6.0 the field From stands more"),
    ],
)
def test_refusals_name_the_field(house: House, server: Listening, header: str, answer: str) -> None:
    code, text = send(server.port, header.encode() + b"\r\n\r\nx\r\n")
    assert f"{code} {text.decode()}".startswith(answer)
    assert house.accepted() == []


def test_a_stop_listed_recipient_is_accepted_then_stopped(house: House, server: Listening) -> None:
    house.query(
        "INSERT INTO stop_entry (recipient_hash, recipient, reason) VALUES (%s, 'a', 'manual')",
        recipient_hash("a@example.com"),
    )
    assert send(server.port, MESSAGE, "a@example.com", "b@example.com")[0] == 250
    assert [row[0] for row in house.accepted()] == ["b@example.com"]


def test_what_a_client_asks_to_be_told_is_kept_with_each_row(
    house: House, server: Listening
) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client:
        client.ehlo()
        assert client.has_extn("dsn")
        client.mail("news@shop.test", ["RET=FULL", "ENVID=QQ+2B1"])
        client.rcpt("a@example.com", ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;x@example.com"])
        client.rcpt("b@example.com")
        assert client.data(MESSAGE)[0] == 250
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        send_at = f"X-Postfleet-Send-At: {later.isoformat()}\r\n".encode()
        client.sendmail("news@shop.test", ["c@example.com"], send_at + MESSAGE)
    assert house.query("SELECT recipient, dsn FROM ledger_row ORDER BY id") == [
        ("a@example.com", "S RF Nsd EQQ+2B1 Orfc822;x@example.com"),
        ("b@example.com", "S RF EQQ+2B1"),
        ("c@example.com", f"S T{round(later.timestamp() * 1000)}"),
    ]


def test_the_same_key_queues_one_message_and_another_message_is_refused(
    house: House, server: Listening
) -> None:
    keyed = b"X-Postfleet-Idempotency-Key: order-12\r\n" + MESSAGE
    first, again = send(server.port, keyed)[1], send(server.port, keyed)[1]
    assert first.split()[-1] == again.split()[-1]
    assert b"queued before as" in again
    assert send(server.port, keyed + b"more\r\n")[0] == 554
    assert len(house.accepted()) == 1


def test_the_reverse_path_is_kept_where_it_is_the_accounts_own(
    house: House, server: Listening
) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
        for sender in ("bounces@shop.test", "x@elsewhere.test", "<>"):
            client.sendmail(sender, ["a@example.com"], MESSAGE)
    assert [row[1] for row in house.accepted()] == ["bounces@shop.test", "news@shop.test", ""]


def test_postmaster_is_accepted_and_goes_to_the_operator(house: House, server: Listening) -> None:
    assert send(server.port, MESSAGE, "postmaster")[0] == 250
    assert [row[0] for row in house.accepted()] == ["admin@shop.test"]


def test_an_account_that_is_not_active_is_refused_at_mail(house: House) -> None:
    accounts = {1: replace(POLICY.accounts[1], is_active=False)}
    with (
        Listening(house, policy=replace(POLICY, accounts=accounts)) as server,
        smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client,
    ):
        client.ehlo()
        assert client.mail("news@shop.test")[0] == 550


def test_an_account_that_sends_too_fast_is_told_to_wait(house: House) -> None:
    with Listening(house, messages_per_minute=2) as server:
        codes = [send(server.port, MESSAGE)[0] for _ in range(2)]
        with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
            client.ehlo()
            assert client.mail("news@shop.test")[0] == 450
    assert codes == [250, 250]


def test_a_ledger_that_is_away_is_told_to_each_sender_and_loses_nothing(house: House) -> None:
    with Listening(House("postgresql://127.0.0.1:1/x", house.directory)) as server:
        code, text = send(server.port, MESSAGE)
    assert (code, text[:5]) == (451, b"4.3.1")


# ── many ──────────────────────────────────────────────────────────────────────────────────────


def test_a_thousand_messages_over_twenty_connections_are_all_in_the_ledger(
    house: House, server: Listening
) -> None:
    told: list[str] = []

    def client(number: int) -> None:
        with Wire(server.port) as wire:
            wire.reply()
            wire.ask(b"EHLO x\r\n")
            for count in range(50):
                wire.ask(ENVELOPE.replace(b"a@", b"r%d.%d@" % (number, count)), replies=3)
                body = MESSAGE.replace(b"hi", b"%d.%d" % (number, count))
                (reply,) = wire.ask(body.replace(b"\r\n.", b"\r\n..") + b".\r\n")
                told.append(reply)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(timeout=50)
    assert all(reply.startswith("250 2.0.0 queued as ") for reply in told)
    assert len(set(told)) == 1000
    rows = house.accepted()
    assert {row[0] for row in rows} == {
        f"r{number}.{count}@example.com" for number in range(20) for count in range(50)
    }
    for recipient, _, content in rows:
        assert f"Subject: {recipient[1:-12]}\r\n".encode() in content
    assert server.server.gauge.held == 0

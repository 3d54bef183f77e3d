"""The whole chain on real servers: API, RabbitMQ, worker, Postfix, Dovecot; and what comes back,
made by that Postfix, read out of that Dovecot, told everywhere."""

from __future__ import annotations

import base64
import email
import email.policy
import poplib
import re
import smtplib
import uuid
from collections import Counter
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import dkim
import dns.resolver
import pytest

from mailcore.events import decode_lines
from tests.e2e.services.conftest import Served
from tests.support.fleet import Running, eventually
from tests.support.services import Dovecot, MissingService, Postfix
from tests.support.services.opendkim import Verdict, verdicts
from tests.support.services.postfix import LATE_DOMAIN, STRICT_DOMAIN

HOST = "127.0.0.1"
# An exchanger of its own beside those of the lab, at the one port they all share.
MX_HOST, MX_ADDRESS = "mx.mailbox.test", "127.0.90.1"
# Postfix takes mail for both and relays it: the next hop refuses; the next hop is not there.
BEHIND_DOMAIN, SLOW_DOMAIN = "behind.test", "slow.test"
SELECTORS = {"rsa1": "rsa-sha256", "ed1": "ed25519-sha256"}
SUBJECT = "Grüße № 1: " + "ein langer Betreff " * 8
ATTACHED = bytes(range(256)) * 300
TEXT = "Grüße,\r\n東京, № 17: “später”.\r\n.\r\n..dots\r\n" + "long " * 400 + "\r\n"
RAW = (
    "From: Shop <news@sender.test>\r\nTo: ann@mailbox.test\r\n"
    "Subject:  two   spaces\r\n\tfolded\r\n"
    "Date: Mon, 2 Mar 2026 10:00:00 +0000\r\nMessage-ID: <raw.1@sender.test>\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: 8bit\r\n\r\nGrüße, 東京 \t \r\n.\r\n\r\n..two\r\n \r\n\r\n"
).encode()


@dataclass(slots=True)
class Chain:
    """What was sent, by what was to become of it, and the mailboxes it can have reached."""

    running: Running
    dovecot: Dovecot
    postfix: Postfix
    campaign: str
    passwords: dict[str, str]
    sent: dict[str, str] = field(default_factory=dict)
    mailbox_id: int = 0

    def send(self, name: str, to: str, **document: Any) -> dict[str, Any]:
        """Offer a message in parts; remember it by a name."""
        parts = {"from": "Shop <news@sender.test>", "to": [to], "subject": name, "text": name}
        return self.offer(name, parts | document)

    def offer(self, name: str, document: dict[str, Any]) -> dict[str, Any]:
        """Offer a message as it is."""
        receipt = self.running.api.accept(document | {"campaign": self.campaign})
        self.sent[name] = str(receipt["message_id"])
        return receipt

    def recipient(self, name: str) -> dict[str, Any]:
        """Return what is said of a message that was sent."""
        return self.running.api.recipient(self.sent[name])

    def kinds(self, name: str) -> list[str]:
        """Return what happened to it."""
        return [event["kind"] for event in self.recipient(name)["trace"]]

    def lying(self, user: str) -> list[bytes]:
        """Return what lies in a mailbox, over POP3 in TLS, oldest first."""
        line = poplib.POP3_SSL("localhost", self.dovecot.pop3s_port, context=self.dovecot.tls())
        try:
            line.user(user)
            line.pass_(self.passwords[user])
            numbers = range(1, line.stat()[0] + 1)
            return [b"\r\n".join(line.retr(number)[1]) + b"\r\n" for number in numbers]
        finally:
            line.quit()


@pytest.fixture(scope="module")
def chain(served: Served, dovecot: Dovecot, postfix: Postfix) -> Chain:
    """Mail of every fate, given to the API, and all that Postfix makes of it in the mailboxes."""
    running = served.running
    lab_port = running.settings.smtp_port
    passwords = {user: postfix.add_user(user) for user in ("ann", "bob", "returns")}
    postfix.route("@bounces.sender.test", "returns")
    postfix.listen(MX_ADDRESS, lab_port)
    postfix.relay(BEHIND_DOMAIN, "127.0.1.1", lab_port)
    postfix.relay(SLOW_DOMAIN, "127.0.90.2", lab_port)
    running.lab.set_record(MX_HOST, "A", [MX_ADDRESS])
    for domain in (STRICT_DOMAIN, LATE_DOMAIN, BEHIND_DOMAIN, SLOW_DOMAIN):
        running.lab.set_record(domain, "MX", [f"10 {MX_HOST}."])
    chain = Chain(running, dovecot, postfix, f"chain-{uuid.uuid4().hex[:8]}", passwords)
    attachment = {
        "filename": "zählung.bin",
        "content_type": "application/octet-stream",
        "content": base64.b64encode(ATTACHED).decode(),
    }
    chain.send(SUBJECT, f"ann@{STRICT_DOMAIN}", text=TEXT, attachments=[attachment])
    eventually(lambda: len(chain.lying("ann")) == 1, what=postfix.log)
    raw = {"raw": base64.b64encode(RAW).decode(), "recipients": [f"ann@{STRICT_DOMAIN}"]}
    chain.offer("raw", raw)
    chain.send("refused", f"nobody@{STRICT_DOMAIN}")
    chain.send("late", f"nobody@{LATE_DOMAIN}")
    chain.send("behind", f"somebody@{BEHIND_DOMAIN}")
    chain.send("slow", f"somebody@{SLOW_DOMAIN}")
    # And a receipt, which only who asks for it gets; a worker does not.
    first = chain.lying("ann")[0]
    with smtplib.SMTP(HOST, postfix.port) as client:
        bob = [f"bob@{STRICT_DOMAIN}"]
        client.sendmail(return_path(first), bob, first, rcpt_options=["NOTIFY=SUCCESS"])
    eventually(lambda: len(chain.lying("returns")) == 4, what=postfix.log)
    eventually(lambda: len(chain.lying("ann")) == 2, what=postfix.log)
    eventually(lambda: running.queued(chain.campaign) == 0)
    return chain


@pytest.fixture(scope="module")
def polled(chain: Chain) -> Chain:
    """The returns, one of them twice, read by the fleet."""
    (late, *_) = [one for one in chain.lying("returns") if LATE_DOMAIN.encode() in one]
    chain.dovecot.deliver("returns", late)
    name = f"returns of {chain.campaign}"
    chain.running.panel().save(
        "mailboxes/mailbox/add/",
        "mailbox",
        name=name,
        protocol="pop3",
        host="localhost",
        port=str(chain.dovecot.pop3_port),
        tls="starttls",
        login="returns",
        new_password=chain.passwords["returns"],
        poll_interval_s="1",
    )
    chain.mailbox_id = chain.running.one("SELECT id FROM mailboxes_mailbox WHERE name = %s", name)

    def is_read() -> bool:
        chain.running.ring("inbound.poll")
        ended = "SELECT ended_at FROM mailbox_poll WHERE mailbox_id = %s AND ended_at IS NOT NULL"
        return bool(chain.running.query(ended, chain.mailbox_id))

    eventually(is_read)
    chain.running.wait_applied()
    return chain


def return_path(content: bytes) -> str:
    """Return where a message that was delivered says that it came from."""
    return str(email.message_from_bytes(content)["Return-Path"]).strip("<>")


def published(running: Running) -> dict[str, str]:
    """Return the public keys as a receiver finds them: in DNS, by name."""
    resolver = dns.resolver.Resolver(configure=False)
    assert running.settings.resolver is not None
    host, port = running.settings.resolver
    resolver.nameservers, resolver.port = [host], port
    names = [f"{selector}._domainkey.sender.test" for selector in SELECTORS]
    answers = {name: resolver.resolve(name, "TXT") for name in names}
    return {name: b"".join(answers[name][0].strings).decode() for name in names}


def verifies(content: bytes, keys: dict[str, str]) -> list[bool]:
    """Return what dkimpy says of both signatures."""
    found = {f"{name}.".encode(): value.encode() for name, value in keys.items()}
    signed, results = dkim.DKIM(content), []
    for number in range(2):
        try:
            results.append(bool(signed.verify(idx=number, dnsfunc=lambda name, **_: found[name])))
        except dkim.ValidationError:
            results.append(False)
    return results


# ── there ─────────────────────────────────────────────────────────────────────────────────────


def test_a_message_of_the_api_lies_in_the_mailbox_as_it_was_meant(chain: Chain) -> None:
    content = chain.lying("ann")[0]
    letter = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(letter, EmailMessage)
    assert str(letter["Subject"]) == SUBJECT
    assert (letter["From"], letter["To"]) == ("Shop <news@sender.test>", f"ann@{STRICT_DOMAIN}")
    body = letter.get_body()
    assert body is not None
    octets = body.get_payload(decode=True)
    assert isinstance(octets, bytes)
    assert octets.decode("utf-8") == TEXT
    (attached,) = letter.iter_attachments()
    assert attached.get_filename() == "zählung.bin"
    assert attached.get_payload(decode=True) == ATTACHED
    path = return_path(content)
    assert re.fullmatch(r"b-[a-z2-7]{44}@bounces\.sender\.test", path)
    assert letter["X-Postfleet-Token"] == path[2:46]
    assert "Bcc" not in letter


def test_a_raw_message_lies_there_octet_for_octet_behind_what_we_add(chain: Chain) -> None:
    content = chain.lying("ann")[1]
    assert content.endswith(RAW)
    added = content.removesuffix(RAW).decode().split("\r\n")
    names = [line.partition(":")[0] for line in added if line and line[0] not in " \t"]
    ours = ["DKIM-Signature", "DKIM-Signature", "X-Postfleet-Token"]
    assert names == ["Return-Path", "X-Original-To", "Delivered-To", "Received", *ours]


def test_dkimpy_and_opendkim_verify_both_signatures_of_what_arrived(
    chain: Chain, tmp_path: Path
) -> None:
    keys = published(chain.running)
    for content in chain.lying("ann"):
        assert verifies(content, keys) == [True, True]
        assert verifies(content + b"more\r\n", keys) == [False, False]
        try:
            said = verdicts(content, keys, tmp_path)
        except MissingService as exc:
            pytest.skip(str(exc))
        assert said == [
            Verdict("pass", algorithm, "sender.test", selector)
            for selector, algorithm in SELECTORS.items()
        ]
        changed = verdicts(content + b"more\r\n", keys, tmp_path)
        assert [one.result for one in changed] == ["fail", "fail"]


def test_the_trace_tells_where_it_went_and_how(chain: Chain) -> None:
    told = chain.recipient(SUBJECT)
    assert [event["kind"] for event in told["trace"]] == ["accepted", "delivered"]
    delivered = told["trace"][-1]
    assert re.fullmatch(r"250 2\.0\.0 Ok: (?:\d+ bytes )?queued as \w+", delivered["reply"])
    assert (delivered["mx_host"], delivered["mx_address"]) == (MX_HOST, MX_ADDRESS)
    assert delivered["tls_version"] == "TLSv1.3"
    assert delivered["reply"].rpartition(" ")[2] in chain.postfix.log()


# ── back ──────────────────────────────────────────────────────────────────────────────────────


def stops(chain: Chain, recipient: str) -> list[tuple[str, str]]:
    """Return why an address is on the stop list, and in whose words."""
    found = chain.running.query(
        "SELECT reason, detail FROM stop_entry WHERE recipient = %s", recipient
    )
    return [(str(reason), str(detail)) for reason, detail in found]


def test_who_is_unknown_at_rcpt_bounces_at_once_and_is_stop_listed(chain: Chain) -> None:
    assert chain.kinds("refused") == ["accepted", "bounced"]
    bounced = chain.recipient("refused")["trace"][-1]
    reply = f"550 5.1.1 <nobody@{STRICT_DOMAIN}>: Recipient address rejected: User unknown in"
    assert bounced["reply"].startswith(reply)
    assert (bounced["stage"], bounced["bounce_type"]) == ("rcpt", "hard")
    assert bounced["bounce_class"] == "invalid_recipient"
    chain.running.wait_applied()
    assert stops(chain, f"nobody@{STRICT_DOMAIN}") == [("hard_bounce", bounced["reply"])]


def test_a_late_bounce_is_told_with_its_reply_and_class_and_stop_listed(polled: Chain) -> None:
    assert polled.recipient("late")["state"] == "delivered"
    assert polled.kinds("late") == ["accepted", "delivered", "late_bounced"]
    told = polled.recipient("late")["trace"][-1]
    reply = f'550 5.1.1 unknown user: "nobody@{LATE_DOMAIN}"'
    assert (told["reply"], told["code"], told["enhanced"]) == (reply, 550, "5.1.1")
    assert (told["stage"], told["bounce_type"]) == ("dsn", "hard")
    assert told["bounce_class"] == "invalid_recipient"
    assert told["campaign"] == polled.campaign
    assert stops(polled, f"nobody@{LATE_DOMAIN}") == [("hard_bounce", reply)]


def test_a_late_bounce_quotes_the_host_behind_and_for_what_is_no_fault_of_the_address_stops_nobody(
    polled: Chain,
) -> None:
    assert polled.kinds("behind") == ["accepted", "delivered", "late_bounced"]
    told = polled.recipient("behind")["trace"][-1]
    assert told["reply"].startswith("550 5.7.1 No relaying")
    assert told["bounce_class"] != "invalid_recipient"
    assert stops(polled, f"somebody@{BEHIND_DOMAIN}") == []


def test_a_warning_of_delay_and_a_receipt_are_noted_and_bounce_nothing(polled: Chain) -> None:
    assert polled.kinds("slow") == ["accepted", "delivered"]
    assert polled.kinds(SUBJECT) == ["accepted", "delivered"]
    assert stops(polled, f"somebody@{SLOW_DOMAIN}") == []


def test_a_report_that_came_twice_is_counted_once(polled: Chain) -> None:
    tally = polled.running.query(
        "SELECT kind, fate, sum(messages) FROM mailbox_tally WHERE mailbox_id = %s"
        " GROUP BY kind, fate ORDER BY kind",  # a row a day
        polled.mailbox_id,
    )
    # Three reports of two bounces: each was read, and each bounce was told once.
    assert tally == [("bounce", "told", 3), ("delay", "noted", 1), ("receipt", "noted", 1)]
    bodies = polled.running.query("SELECT body FROM ledger_outbox")
    events = [event for (body,) in bodies for event in decode_lines(bytes(body))]
    ours = [event for event in events if event.campaign == polled.campaign]
    late = [event.recipient for event in ours if event.kind == "late_bounced"]
    assert sorted(late) == [f"nobody@{LATE_DOMAIN}", f"somebody@{BEHIND_DOMAIN}"]


def test_the_next_message_to_who_bounced_late_is_stopped_at_the_door(polled: Chain) -> None:
    receipt = polled.send("again", f"nobody@{LATE_DOMAIN}")
    assert [(one["accepted"], one["reason"]) for one in receipt["recipients"]] == [
        (True, "stopped")
    ]
    assert polled.kinds("again") == ["accepted", "stopped"]
    assert polled.recipient("again")["state"] == "stopped"


# ── seen ──────────────────────────────────────────────────────────────────────────────────────


def campaign_id(chain: Chain) -> int:
    """Return the number of the campaign that all of it was."""
    return int(chain.running.one("SELECT id FROM campaign WHERE label = %s", chain.campaign))


def test_the_dashboard_shows_what_the_api_tells(polled: Chain) -> None:
    expected = Counter(kind for name in polled.sent for kind in polled.kinds(name))
    assert expected["late_bounced"] == 2
    panel, shown = polled.running.panel(), dict[str, int]()

    def is_shown() -> bool:
        page = panel.get(f"reports/?period=1h&campaign={campaign_id(polled)}")
        assert page.status == 200
        found = re.findall(r'<li class="k-(\w+)"><i></i>[^<]* <b>(\d+)</b></li>', page.text)
        shown.clear()
        shown.update((kind, int(count)) for kind, count in found)
        return shown == expected

    eventually(is_shown, what=lambda: (shown, expected))
    page = panel.get(f"reports/?period=1h&campaign={campaign_id(polled)}").text
    assert "unknown user: &quot;" in page
    assert "bounced late" in page


def test_the_page_of_the_mailbox_counts_what_was_read_of_it(polled: Chain) -> None:
    panel = polled.running.panel()
    page = panel.get(f"mailboxes/mailbox/{polled.mailbox_id}/change/")
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', page.text)
    counts = {kind: re.findall(r'"number">(\d+)<', cells) for kind, cells in rows}
    expected = {"bounces": 3, "warnings of delay": 1, "receipts of delivery": 1}
    assert counts == {kind: [str(count)] * 3 for kind, count in expected.items()}
    assert f"<dd>{polled.running.settings.node}</dd>" in page.text
    assert "The last reading failed" not in page.text

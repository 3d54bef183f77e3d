"""A sender through a smart host, made at the panel: API, worker, Postfix that wants a login of
Dovecot's, mailbox; and what the smart host could not deliver, back as a report."""

from __future__ import annotations

import email
import json
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.services.conftest import Served
from tests.support.fleet import Running, eventually
from tests.support.panel import Panel
from tests.support.services import Dovecot, Postfix
from tests.support.services.postfix import LATE_DOMAIN, REFUSING_DOMAIN

HOST = "smart.example.com"
LOGIN, PASSWORD = "fleet", "a pässword = %40 <of> it"
# The exchanger that the domain has in DNS; nobody listens there.
MX_HOST, MX_ADDRESS = "mx.away.test", "127.0.91.1"


@dataclass(slots=True)
class Smart:
    """A sender that sends through Postfix."""

    running: Running
    dovecot: Dovecot
    postfix: Postfix
    name: str
    page: str

    def send(self, to: str, **document: Any) -> str:
        """Offer a message, of this sender unless `document` has another; return its id."""
        parts = {"from": "Shop <news@sender.test>", "to": [to], "subject": "hello", "text": "hello"}
        asked = {**parts, "sender": self.name, **document}
        return str(self.running.api.accept(asked)["message_id"])

    def trace(self, message_id: str) -> list[dict[str, Any]]:
        """Return what happened to a message."""
        return list(self.running.api.recipient(message_id)["trace"])

    def kinds(self, message_id: str) -> list[str]:
        """Return the kinds of what happened to a message."""
        return [event["kind"] for event in self.trace(message_id)]

    def lying(self, user: str) -> list[bytes]:
        """Return what lies in a mailbox."""
        box = self.dovecot.maildir(user)
        return [path.read_bytes() for folder in ("new", "cur") for path in (box / folder).iterdir()]

    def retry(self, message_id: str) -> None:
        """Make what waits of a message due now."""
        api, body = self.running.api, {"filter": {"messages": [message_id]}}
        kind = {"Content-Type": "application/json"}
        answer = api.call("POST", "/queue/retry", json.dumps(body).encode(), kind)
        assert answer.status == 202, answer.body

    def save(self, **changes: str) -> None:
        """Change the sender at the panel."""
        self.running.panel().save(self.page, "sender", **changes)


def usual(running: Running) -> int:
    """Return the number of the sender that was there before."""
    return int(running.one("SELECT min(id) FROM senders_sender"))


def own_pool(panel: Panel, running: Running) -> dict[str, str]:
    """Return what the form of the usual sender says of where from and how fast."""
    number = usual(running)
    form = panel.form(f"senders/sender/{number}/change/", "sender_form")
    return {name: form.get(name, [""])[0] for name in ("pool", "strategy", "default_rule")}


@pytest.fixture(scope="module")
def smart(served: Served, dovecot: Dovecot, postfix: Postfix) -> Smart:
    """The sender, with a password that is not right and a host that cannot show who it is."""
    running, panel = served.running, served.running.panel()
    dovecot.add_user("carol")
    postfix.route(f"carol@{REFUSING_DOMAIN}", "carol")
    dovecot.add_user("smart-returns")
    postfix.route("@bounces.sender.test", "smart-returns")
    dovecot.add_user(LOGIN, PASSWORD)
    (port,) = postfix.submission({"smtpd_tls_auth_only": "yes"})
    running.lab.set_record(HOST, "A", ["127.0.0.1"])
    running.lab.set_record(MX_HOST, "A", [MX_ADDRESS])
    running.lab.set_record(REFUSING_DOMAIN, "MX", [f"10 {MX_HOST}."])
    name = f"smart-{uuid.uuid4().hex[:8]}"
    panel.save(
        "senders/sender/add/",
        "sender",
        **own_pool(panel, running),
        name=name,
        accounts="1",
        uses_relay="on",
        relay_host=HOST,
        relay_port=str(port),
        relay_auth="any",
        relay_login=LOGIN,
        relay_password="not the word",
    )
    number = running.one("SELECT id FROM senders_sender WHERE name = %s", name)
    return Smart(running, dovecot, postfix, name, f"senders/sender/{number}/change/")


def test_mail_waits_for_the_right_host_and_the_right_password(smart: Smart) -> None:
    message_id = smart.send(f"carol@{REFUSING_DOMAIN}")

    def told() -> str:
        return str(smart.running.api.recipient(message_id))

    # Its certificate is nobody's, so it hears no password.
    reply = "451 4.7.5 the certificate is not valid: self-signed certificate"
    eventually(lambda: reply in told(), what=told)
    assert "authentication failed" not in smart.postfix.log()
    smart.save(relay_verifies="false")
    smart.retry(message_id)
    eventually(lambda: "535 5.7.8" in told(), what=told)
    assert "authentication failed" in smart.postfix.log()
    assert smart.running.api.recipient(message_id)["state"] == "queued"
    assert smart.lying("carol") == []
    smart.save(relay_password=PASSWORD)
    smart.retry(message_id)
    eventually(lambda: "delivered" in smart.kinds(message_id), what=told)
    eventually(lambda: len(smart.lying("carol")) == 1, what=smart.postfix.log)
    first, *tries, last = smart.kinds(message_id)
    assert (first, set(tries), last) == ("accepted", {"deferred"}, "delivered")
    delivered = smart.trace(message_id)[-1]
    assert (delivered["mx_host"], delivered["mx_address"]) == (HOST, "127.0.0.1")
    assert delivered["tls_version"] == "TLSv1.3"
    assert f"sasl_username={LOGIN}" in smart.postfix.log()


def test_the_smart_host_takes_mail_for_every_domain_and_no_exchanger_is_asked(
    smart: Smart,
) -> None:
    before = len(smart.lying("carol"))
    sent = [smart.send(f"carol@{REFUSING_DOMAIN}") for _ in range(20)]
    eventually(lambda: len(smart.lying("carol")) == before + 20, what=smart.postfix.log)
    # The mailbox has it before we have told of the reply.
    eventually(lambda: all("delivered" in smart.kinds(one) for one in sent))
    assert {tuple(smart.kinds(one)) for one in sent} == {("accepted", "delivered")}
    # What other senders send to the domain still goes where its MX record says.
    other = smart.send(f"carol@{REFUSING_DOMAIN}", sender=usual(smart.running))
    eventually(lambda: "deferred" in smart.kinds(other), what=lambda: str(smart.trace(other)))
    assert MX_ADDRESS in smart.trace(other)[-1]["reply"]


def test_what_the_smart_host_could_not_deliver_comes_back_as_a_report_of_ours(
    smart: Smart,
) -> None:
    message_id = smart.send(f"nobody@{LATE_DOMAIN}")
    eventually(lambda: len(smart.lying("smart-returns")) == 1, what=smart.postfix.log)
    (report,) = smart.lying("smart-returns")
    parts = list(email.message_from_bytes(report).walk())
    (about,) = [part for part in parts if part.get_content_type() == "message/delivery-status"]
    fields = [dict(block.items()) for block in about.walk() if block is not about]
    assert fields[1]["Original-Recipient"] == f"rfc822;nobody@{LATE_DOMAIN}"
    assert fields[1]["Action"] == "failed"
    eventually(lambda: smart.kinds(message_id) == ["accepted", "delivered"])

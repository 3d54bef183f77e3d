"""The servers and clients of the world and our listener: what gets 250 is in the queue as it was
meant."""

from __future__ import annotations

import re
import smtplib
from typing import Any

import pytest

from mailcore.ports import WireMessage
from tests.io.interop.conftest import Installation
from tests.io.interop.peers import letters
from tests.support.fleet import eventually
from tests.support.services import Exim, OpenSmtpd, Postfix
from tests.support.services.jail import LOGIN_DOMAIN, OPEN_DOMAIN, TLS_DOMAIN
from tests.support.smtpd import HOST

SENDER = "news@shop.test"
WAYS = {OPEN_DOMAIN: b"ESMTP", LOGIN_DOMAIN: b"ESMTPSA", TLS_DOMAIN: b"ESMTPSA"}
_QUEUED = re.compile(r"queued as ([0-9a-f]{8}-[0-9a-f-]{27})")
_ADDED = re.compile(
    rb"Received: from \S+\r\n\tby %s \(Postfleet\) with (\S+) id [^\r]+\r\n(?:[ \t][^\r]*\r\n)*"
    rb"(?:Received: [^\r]+\r\n(?:[ \t][^\r]*\r\n)+)?" % HOST.encode()
)


def put(port: int, messages: list[WireMessage]) -> None:
    """Hand messages to a server, as a program on its machine does."""
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo("pc.test")
        for each in messages:
            client.sendmail(SENDER, each.forward_paths, each.content, ["BODY=8BITMIME"])


@pytest.mark.parametrize("name", ["postfix", "exim", "opensmtpd"])
def test_what_a_server_sends_on_is_in_our_queue_as_it_was_given(
    request: pytest.FixtureRequest, installation: Installation, name: str
) -> None:
    server: Any = request.getfixturevalue(name)
    assert isinstance(server, Postfix | Exim | OpenSmtpd)
    server.relay_to(installation.smarthost)
    recipients = [f"{name}@{domain}" for domain in WAYS]
    sent = letters(SENDER, *recipients)
    put(server.port, sent)

    def is_done() -> bool:
        return all(installation.count(one) >= len(sent) for one in recipients)

    eventually(is_done, within_s=30, what=server.log)
    eventually(lambda: server.queue_size() == 0, within_s=10, what=server.log)
    told = set(_QUEUED.findall(server.log()))
    if isinstance(server, Exim):
        assert ' K C="250 2.0.0 queued as ' in server.log(), "it was to send chunks"
    for recipient, (_, protocol) in zip(recipients, WAYS.items(), strict=True):
        taken = installation.taken(recipient)
        assert set(taken) <= told
        added = [_ADDED.match(content) for content in taken.values()]
        assert {one and one[1] for one in added} == {protocol}
        bare = [
            content[one.end() :] for content, one in zip(taken.values(), added, strict=True) if one
        ]
        assert sorted(bare) == sorted(each.content for each in sent)

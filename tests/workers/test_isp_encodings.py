"""What an ISP's row says of content, and what a node's says of answers, happens on the wire."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email import policy as mail_policy

import pytest

from mailcore.policy.model import Node
from mailcore.policy.words import Encoding
from mailcore.reply import SmtpReply
from tests.support.builders import NODE, policy, row
from tests.support.fakes import World, world
from tests.workers.test_drain import drained

TEXT = "Grüße\r\n".encode()
HEAD = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
IN_QP = HEAD + b"Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n"


def isp_world(content: bytes, encoding: Encoding, *, takes_8bit: bool = True) -> World:
    """A row for an ISP that wants its texts so encoded."""
    snapshot = policy()
    isp = replace(snapshot.isps[1], encoding_global=encoding)
    it = world(replace(snapshot, isps={1: isp}))
    it.spool.content, it.receiver.takes_8bit = content, takes_8bit
    it.ledger.add(row(1))
    return it


@pytest.mark.parametrize(
    ("wanted", "takes_8bit", "word"),
    [
        (Encoding.AS_SUBMITTED, False, "quoted-printable"),
        (Encoding.BASE64, True, "base64"),
        (Encoding.EIGHT_BIT, True, "8bit"),
        (Encoding.EIGHT_BIT, False, "quoted-printable"),
        (Encoding.BASE64, False, "base64"),
    ],
)
async def test_a_text_goes_as_the_isp_wants_it_and_its_server_can_take_it(
    wanted: Encoding, takes_8bit: bool, word: str
) -> None:
    it = isp_world(IN_QP, wanted, takes_8bit=takes_8bit)
    await drained(it)
    (message,) = it.receiver.delivered
    sent = message_from_bytes(message.content, policy=mail_policy.SMTP)
    assert sent["Content-Transfer-Encoding"] == word
    assert sent.get_payload(decode=True) == TEXT
    assert message.needs_8bit is (word == "8bit")


async def test_by_default_content_goes_as_it_was_submitted() -> None:
    for content in (IN_QP, HEAD + b"Content-Transfer-Encoding: 8bit\r\n\r\n" + TEXT):
        it = isp_world(content, Encoding.AS_SUBMITTED)
        await drained(it)
        (message,) = it.receiver.delivered
        assert message.content.endswith(content)


async def test_a_field_of_the_client_s_does_not_stand_beside_ours() -> None:
    node = Node(1, NODE, fbl_header="X-Job")
    it = world(replace(policy(), nodes={NODE: node}))
    it.spool.content = b"Subject: x\r\nx-job: theirs\r\n folded\r\n\r\nx-job: body\r\n"
    it.ledger.add(row(1))
    await drained(it)
    (message,) = it.receiver.delivered
    sent = message_from_bytes(message.content, policy=mail_policy.SMTP)
    assert len(sent.get_all("X-Job", [])) == 1
    assert b"theirs" not in message.content
    assert message.content.endswith(b"\r\n\r\nx-job: body\r\n")


async def test_each_answer_is_a_line_in_the_log_of_a_node_that_wants_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for node in (Node(1, NODE), Node(1, NODE, logs_replies=True)):
        it = world(replace(policy(), nodes={NODE: node}))
        it.receiver.script = [SmtpReply.of(550, ("5.1.1 no such user",))]
        it.ledger.add(row(1), row(2))
        await drained(it)
    lines = [vars(one) for one in caplog.records if one.message == "smtp reply"]
    assert [(one["reply"], one["verdict"], one["domain"], one["host"]) for one in lines] == [
        ("550 5.1.1 no such user", "bounced", "peer.test", "mx.peer.test"),
        ("250 2.0.0 queued", "delivered", "peer.test", "mx.peer.test"),
    ]

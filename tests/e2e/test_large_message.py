"""A message of 2 MB with a UTF-8 subject, an 8-bit part and a binary attachment arrives as it was
written, under two signatures that another implementation verifies by the lab's DNS."""

import base64
import email
import email.policy
import random
import re
import uuid
from email.message import EmailMessage
from typing import Any

import dkim
import dns.resolver
import pytest

from tests.support.fleet import Running, eventually

SUBJECT = "Привет, Ω: ein größerer Brief 📬 из Пскова"
TEXT = "Первая строка, ünïcode.\nПять слов.\n\n.A line that begins with a dot.\n"
BINARY = random.Random(7).randbytes(1_500_000)  # 2 MB as base64


def raw_message(lab_id: str) -> bytes:
    """Write the message by hand: an 8-bit part as it is, the attachment in lines of base64."""
    text = TEXT.replace("\n", "\r\n").encode()
    encoded = base64.encodebytes(BINARY).replace(b"\n", b"\r\n")
    subject = b"=?utf-8?B?" + base64.b64encode(SUBJECT.encode()) + b"?="
    return b"".join(
        [
            b"From: =?utf-8?Q?Caf=C3=A9?= <news@sender.test>\r\n",
            b"To: reader@accepta.test\r\n",
            b"Subject: ", subject, b"\r\n",
            b"X-Lab-Id: ", lab_id.encode(), b"\r\n",
            b"MIME-Version: 1.0\r\n",
            b'Content-Type: multipart/mixed; boundary="=_a b"\r\n\r\n',
            b"--=_a b\r\nContent-Type: text/plain; charset=utf-8\r\n",
            b"Content-Transfer-Encoding: 8bit\r\n\r\n", text, b"\r\n",
            b"--=_a b\r\nContent-Type: application/octet-stream\r\n",
            b'Content-Disposition: attachment; filename="a.bin"\r\n',
            b"Content-Transfer-Encoding: base64\r\n\r\n", encoded, b"\r\n--=_a b--\r\n",
        ]
    )  # fmt: skip


def received(running: Running, lab_id: str) -> bytes:
    """Return what the receiver got, once it got it."""
    eventually(lambda: any(running.lab.facts(id=lab_id, fate="accepted")))
    return running.lab.message(lab_id)


def check_signatures(running: Running, message: bytes) -> None:
    """Verify both signatures with dkimpy; the keys come from the lab's DNS."""
    host, _, port = running.fleet.environment["DNS_RESOLVER"].partition(":")
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [host], int(port)
    asked: list[str] = []

    def look_up(name: bytes, timeout: int = 5) -> bytes:
        asked.append(name.decode())
        (record,) = resolver.resolve(name.decode(), "TXT", lifetime=timeout)
        return b"".join(record.strings)

    head = re.sub(rb"\r\n[ \t]+", b" ", message.partition(b"\r\n\r\n")[0])
    signatures = re.findall(rb"(?m)^DKIM-Signature: .*$", head)
    algorithms = {re.search(rb"a=([a-z0-9-]+)", one)[1] for one in signatures}  # type: ignore[index]
    assert algorithms == {b"rsa-sha256", b"ed25519-sha256"}
    for index in range(len(signatures)):
        assert dkim.DKIM(message).verify(idx=index, dnsfunc=look_up)
        with pytest.raises(dkim.ValidationError, match="body hash"):
            dkim.DKIM(message + b"more\r\n").verify(idx=index, dnsfunc=look_up)
    assert {name.rstrip(".") for name in asked} == {
        "rsa1._domainkey.sender.test",
        "ed1._domainkey.sender.test",
    }


def parts_of(message: bytes) -> dict[str, Any]:
    """Return what a reader's program makes of a message."""
    read = email.message_from_bytes(message, EmailMessage, policy=email.policy.default)
    text = next(part for part in read.walk() if part.get_content_type() == "text/plain")
    binary = next(part for part in read.walk() if part.get_filename() == "a.bin")
    content = text.get_payload(decode=True)
    assert isinstance(content, bytes)
    return {
        "subject": read["Subject"],
        "text": content.decode().replace("\r\n", "\n"),
        "binary": binary.get_payload(decode=True),
    }


@pytest.mark.parametrize("form", ["base64 in JSON", "the bare message"])
def test_a_large_raw_message_arrives_byte_for_byte(running: Running, form: str) -> None:
    lab_id = f"large-{uuid.uuid4().hex[:8]}"
    running.lab.keep(["large-"])
    sent = raw_message(lab_id)
    assert len(sent) > 2_000_000
    if form == "base64 in JSON":
        document = {"raw": base64.b64encode(sent).decode(), "recipients": ["reader@accepta.test"]}
        running.api.accept(document)
    else:
        kind = {"Content-Type": "message/rfc822"}
        path = "/messages?recipient=reader@accepta.test"
        answer = running.api.call("POST", path, sent, kind)
        assert answer.status == 202, answer.body
    got = received(running, lab_id)
    check_signatures(running, got)
    assert got.partition(b"\r\n\r\n")[2] == sent.partition(b"\r\n\r\n")[2]
    fields = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert [one for one in fields if one not in got.split(b"\r\n")] == []
    assert parts_of(got) == {"subject": SUBJECT, "text": TEXT + "\n", "binary": BINARY} | {
        "text": parts_of(sent)["text"]
    }


def test_large_parts_arrive_as_they_were_given(running: Running) -> None:
    lab_id = f"large-{uuid.uuid4().hex[:8]}"
    running.lab.keep(["large-"])
    running.api.accept(
        {
            "from": {"address": "news@sender.test", "name": "Café"},
            "to": ["reader@accepta.test"],
            "subject": SUBJECT,
            "text": TEXT,
            "attachments": [{"filename": "a.bin", "content": base64.b64encode(BINARY).decode()}],
            "headers": {"X-Lab-Id": lab_id},
        }
    )
    got = received(running, lab_id)
    assert len(got) > 2_000_000
    check_signatures(running, got)
    found = parts_of(got)
    assert (found["subject"], found["binary"]) == (SUBJECT, BINARY)
    assert found["text"].rstrip("\n") == TEXT.rstrip("\n")

"""Programs that submit mail, and our listener: smtplib, swaks, Nodemailer, our own client."""

from __future__ import annotations

import re
import smtplib
import subprocess
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from mailcore.policy.words import TlsMode
from mailcore.transaction import Credentials
from mailio.smtp import SmtpConnector
from tests.io.interop.conftest import Installation
from tests.io.interop.peers import HEADER, letters, send_all
from tests.support.nodemailer import run_node
from tests.support.services.base import MissingService, require
from tests.support.smtp_peer import Heard
from tests.support.smtp_session import endpoint
from tests.support.smtpd import TOKEN, Wire, trusting

SENDER = "news@shop.test"
WAYS = ["open", "starttls", "tls"]
# swaks takes a dot at the very end for the end, and ends the last line itself.
DOTTED = HEADER % (b"dotted", b"dotted") + ".\r\n..\r\nGrüße\r\n.x\r\nend\r\n".encode()
_QUEUED = re.compile(r"250 2\.0\.0 queued as ([0-9a-f-]{36})")


def port_of(installation: Installation, way: str) -> int:
    host = installation.smarthost
    return {"open": host.open_port, "starttls": host.port, "tls": host.tls_port}[way]


@pytest.fixture
def to(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "-", request.node.name).strip("-")[-50:] + "@example.com"


@pytest.mark.parametrize("way", WAYS)
def test_smtplib(installation: Installation, way: str, to: str) -> None:
    port, context = port_of(installation, way), trusting(installation.house.directory)
    with (
        smtplib.SMTP_SSL("127.0.0.1", port, context=context, timeout=20)
        if way == "tls"
        else smtplib.SMTP("127.0.0.1", port, timeout=20)
    ) as client:
        if way == "starttls":
            client.starttls(context=context)
        if way != "open":
            client.login("news", TOKEN)
        for _ in range(2):
            assert client.sendmail(SENDER, [to], DOTTED, ["BODY=8BITMIME"]) == {}
    assert [c.endswith(DOTTED) for c in installation.taken(to).values()] == [True, True]


@pytest.mark.parametrize(
    ("way", "mechanism"),
    [("open", ""), ("starttls", "PLAIN"), ("starttls", "LOGIN"), ("tls", "PLAIN")],
)
def test_swaks(
    installation: Installation, way: str, mechanism: str, to: str, tmp_path: Path
) -> None:
    try:
        program = require("swaks", "swaks")
    except MissingService as exc:
        pytest.skip(str(exc))
    (tmp_path / "message").write_bytes(DOTTED.replace(b"\r\n", b"\n").removesuffix(b"\n"))
    login = ["--auth", mechanism, "--auth-user", "news", "--auth-password", TOKEN]
    options = {
        "open": [],
        "starttls": ["--tls", *login],
        "tls": ["--tls-on-connect", *login],
    }[way]
    said = subprocess.run(
        [
            *(program, "--server", f"127.0.0.1:{port_of(installation, way)}", "--pipeline"),
            *("--ehlo", "pc.test", "--from", SENDER, "--to", to),
            *("--data", f"@{tmp_path}/message", *options),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "TLS not available" in said.stdout + said.stderr:
        pytest.skip("swaks does no TLS without libnet-ssleay-perl")
    assert said.returncode == 0, said.stdout + said.stderr
    taken = installation.taken(to)
    assert list(taken) == _QUEUED.findall(said.stdout)
    assert [content.endswith(DOTTED) for content in taken.values()] == [True]


_NODE = """
const nodemailer = require("nodemailer");
const [options, messages] = process.argv.slice(1).map((each) => JSON.parse(each));
const transport = nodemailer.createTransport(options);
Promise.all(messages.map((each) => transport.sendMail(each)))
  .then((all) => console.log(JSON.stringify(all.map((one) => one.response))))
  .then(() => transport.close())
  .catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.parametrize("way", WAYS)
def test_nodemailer(installation: Installation, way: str, to: str) -> None:
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port_of(installation, way),
        "secure": way == "tls",
        "pool": True,
        "maxConnections": 2,
        "tls": {
            "ca": installation.smarthost.certificate.read_text(),
            "servername": installation.smarthost.host,
        },
    }
    options |= {"ignoreTLS": True} if way == "open" else {"auth": {"user": "news", "pass": TOKEN}}
    options |= {"requireTLS": True} if way == "starttls" else {}
    written = {
        "from": {"name": "Nachrichten, täglich", "address": SENDER},
        "to": to,
        "subject": "Grüße 漢字",
        "text": ".\n..\nGrüße\n",
        "html": "<p>.</p>",
        "attachments": [{"filename": "ä.bin", "content": "AAEC/w==", "encoding": "base64"}],
        "headers": {"X-Postfleet-Campaign": "spring"},
    }
    ready = {"envelope": {"from": SENDER, "to": [to]}, "raw": DOTTED.decode()}
    try:
        told = run_node(_NODE, options, [written] * 5 + [ready] * 5)
    except MissingService as exc:
        pytest.skip(str(exc))
    taken = installation.taken(to)
    assert sorted(taken) == sorted(_QUEUED.search(one)[1] for one in told)  # type: ignore[index]
    assert [content.endswith(DOTTED) for content in taken.values()].count(True) == 5
    mails = [
        message_from_bytes(content, policy=policy.default)
        for content in taken.values()
        if not content.endswith(DOTTED)
    ]
    assert len(mails) == 5
    for mail in mails:
        text, html = mail.get_body(("plain",)), mail.get_body(("html",))
        assert text is not None
        assert html is not None
        assert text.get_content().split() == [".", "..", "Grüße"]
        assert html.get_content().strip() == "<p>.</p>"
        assert [(a.get_filename(), a.get_content()) for a in mail.iter_attachments()] == [
            ("ä.bin", b"\x00\x01\x02\xff")
        ]
        assert (mail["Subject"], mail["X-Postfleet-Campaign"]) == ("Grüße 漢字", None)


@pytest.mark.parametrize("allows_chunking", [True, False])
@pytest.mark.parametrize("tls", [TlsMode.NONE, TlsMode.REQUIRED])
async def test_our_own_client(
    installation: Installation, to: str, tls: TlsMode, *, allows_chunking: bool
) -> None:
    is_open = tls is TlsMode.NONE
    where = endpoint(
        Heard(port=port_of(installation, "open" if is_open else "starttls")),
        tls,
        allows_chunking=allows_chunking,
        credentials=None if is_open else Credentials("news", TOKEN),
    )
    connection = await SmtpConnector(confine_to_loopback=True).connect(where)
    sent = letters(SENDER, to)
    assert await send_all(connection, sent) == [[(250, "dot")]] * len(sent)
    await connection.close()
    taken = list(installation.taken(to).values())
    assert len(taken) == len(sent)
    for content, message in zip(taken, sent, strict=True):
        assert content.endswith(b"\r\n" + message.content)


def test_a_batch_in_one_write_by_data_and_by_chunks(installation: Installation, to: str) -> None:
    """What no library does and a bulk mailer may: all of several messages before any answer."""
    envelope = f"MAIL FROM:<{SENDER}> BODY=8BITMIME\r\nRCPT TO:<{to}>\r\n".encode()
    stuffed = DOTTED.replace(b"\n.", b"\n..")
    half = len(DOTTED) // 2
    chunks = b"BDAT %d\r\n%sBDAT %d LAST\r\n%s" % (
        *(half, DOTTED[:half]),
        *(len(DOTTED) - half, DOTTED[half:]),
    )
    with Wire(installation.own.port) as wire:
        wire.reply()
        wire.ask(b"EHLO pc.test\r\n")
        said = wire.ask((envelope + chunks) * 20, replies=4 * 20)
        for _ in range(3):  # DATA is the last command of its group (RFC 2920).
            said += wire.ask(envelope + b"DATA\r\n", replies=3)
            said += wire.ask(stuffed + b".\r\n")
    taken = installation.taken(to)
    assert list(taken) == _QUEUED.findall("".join(said))
    assert [content.endswith(b"\r\n" + DOTTED) for content in taken.values()] == [True] * 23

"""`python -m lab` says where it listens, serves on uvloop, and ends when told."""

import json
import os
import poplib
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.resolver
import pytest

from lab.client import LabClient

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def lab_process(directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the lab and yield it with its first line; it is killed if it still runs at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "--dir", str(directory), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_all_parts_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with lab_process(tmp_path / "a b", "--seed", "7") as (process, line):
        ready = json.loads(line)
        assert ready["pid"] == process.pid
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], ready["dns_port"]
        exchanger = min(resolver.resolve("mail.accepta.test", "MX"), key=lambda mx: mx.preference)
        (address,) = resolver.resolve(exchanger.exchange, "A")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP(address.to_text(), ready["smtp_port"], timeout=60) as smtp:
            smtp.starttls(context=context)
            assert isinstance(smtp.sock, ssl.SSLSocket)
            smtp.sendmail("a@sender.test", "u@mail.accepta.test", b"X-Lab-Id: p\r\n\r\nhello\r\n")
        client = LabClient(ready["control_port"])
        assert client.message("p") == b"X-Lab-Id: p\r\n\r\nhello\r\n"
        assert client.counts()["total"]["tls_connections"] == 1
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
    journal = (tmp_path / "a b" / "facts.jsonl").read_text()
    rows = [json.loads(row) for row in journal.splitlines()]
    assert [row["kind"] for row in rows] == ["fact", "ending"]


def test_a_failed_handshake_on_uvloop_is_counted_and_harms_nobody(tmp_path: Path) -> None:
    with lab_process(tmp_path) as (_, line):
        ready = json.loads(line)
        client = LabClient(ready["control_port"])
        for octets in (b"no handshake\r\n" * 50, b"\x16\x03\x01", b""):
            smtp = smtplib.SMTP("127.0.1.1", ready["smtp_port"], timeout=60)
            smtp.docmd("EHLO", "x")
            smtp.docmd("STARTTLS")
            smtp.send(octets)
            smtp.close()
        while client.counts()["total"]["lost_connections"] < 3:
            pass
        assert client.health()["status"] == "ok"


def test_it_ends_though_clients_hang_in_a_handshake_and_a_stall(tmp_path: Path) -> None:
    with lab_process(tmp_path) as (process, line):
        ready = json.loads(line)
        client = LabClient(ready["control_port"])
        client.script({"mail": [{"delay_s": None}]}, provider="greylisto")
        with (
            socket.create_connection(("127.0.1.1", ready["smtp_port"]), timeout=60) as shaking,
            socket.create_connection(("127.0.2.1", ready["smtp_port"]), timeout=60) as stalled,
        ):
            for one, last in ((shaking, b"STARTTLS\r\n"), (stalled, b"MAIL FROM:<>\r\n")):
                assert one.recv(1000).startswith(b"220")
                one.sendall(b"EHLO client.test\r\n")
                assert one.recv(1000).startswith(b"250")
                one.sendall(last)
            assert shaking.recv(1000).startswith(b"220")
            process.terminate()
            assert process.wait(timeout=60) == 0
    journal = (tmp_path / "facts.jsonl").read_text()
    assert [json.loads(row)["kind"] for row in journal.splitlines()] == ["ending", "ending"]


def test_the_wide_world_is_served_with_its_mailboxes(tmp_path: Path) -> None:
    with lab_process(tmp_path, "--world", "wide", "--reports-after-s", "0") as (process, line):
        ready = json.loads(line)
        client = LabClient(ready["control_port"])
        assert len(client.counts()["providers"]) == 11
        found = client.mailboxes()
        assert (found["port"], found["tls_port"]) == (ready["pop3_port"], ready["pop3s_port"])
        bounces = next(box for box in found["results"] if box["user"] == "bounces")
        with smtplib.SMTP("127.0.1.1", ready["smtp_port"], timeout=60) as smtp:
            smtp.sendmail("b@sender.test", "u@accepta.test", b"X-Lab-Id: p\r\n\r\nhello\r\n")
        client.bounce("p", "u@accepta.test")
        trusting = ssl.create_default_context(cafile=found["certificate"])
        pop = poplib.POP3(found["host"], found["port"], timeout=60)
        pop.stls(trusting)  # on uvloop, other than in the tests of mailboxes
        pop.user(bounces["user"])
        pop.pass_(bounces["password"])
        assert b"To: b@sender.test" in pop.retr(1)[1]
        pop.dele(1)
        pop.quit()
        implicit = poplib.POP3_SSL(found["host"], found["tls_port"], timeout=60, context=trusting)
        implicit.user(bounces["user"])
        implicit.pass_(bounces["password"])
        assert implicit.stat() == (0, 0)
        with socket.create_connection((found["host"], found["port"]), timeout=60) as hanging:
            hanging.sendall(b"STLS\r\n")
            while b"shake hands" not in hanging.recv(1000):
                pass
            process.terminate()
            assert process.wait(timeout=60) == 0
        implicit.close()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with lab_process(tmp_path / "a") as (_, line):
        taken = str(json.loads(line)["control_port"])
        with lab_process(tmp_path / "b", "--control-port", taken) as (second, silence):
            assert silence == ""
            assert second.wait(timeout=60) == 1
            assert second.stderr is not None
            message = second.stderr.read()
            assert f"cannot bind ['127.0.0.1'] port {taken}" in message
            assert "Traceback" not in message

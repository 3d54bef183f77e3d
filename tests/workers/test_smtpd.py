"""The listener as a process: it starts, says why it does not, stops, and may be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.smtpd import (
    ENVELOPE,
    MESSAGE,
    TOKEN,
    House,
    Wire,
    furnished,
    make_certificate,
    trusting,
)
from tests.support.stack import redis_url

TOP = Path(__file__).resolve().parents[2]
KEY = "1:" + "A" * 43 + "="


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with furnished(tmp_path) as house:
        yield house


def environment(house: House, **changes: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{TOP}:{TOP / 'platform'}",
        "NODE": "n1",
        "VAR_DIR": str(house.directory),
        "DATABASE_URL": house.database,
        "BROKER_URL": "memory://",
        "REDIS_URL": redis_url(),
        "CLICKHOUSE_URL": "http://127.0.0.1:1",
        "SPOOL_URL": f"file://{house.spool_dir}",
        "SECRET_KEYS": KEY,
        "SMTPD_HOST": "mx.shop.test",
        "SMTPD_TLS_CERT": str(house.directory / "cert.pem"),
        "SMTPD_TLS_KEY": str(house.directory / "key.pem"),
        "SMTPD_NETWORKS": "127.0.0.0/8:acme",
        "READY_FILE": str(house.directory / "ready"),
        **changes,
    }


def _says(ready: Path, pid: int) -> bool:
    return ready.exists() and ready.read_text() == str(pid)


@contextlib.contextmanager
def running(house: House, port: int) -> Iterator[subprocess.Popen[str]]:
    ready = house.directory / "ready"
    ready.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.smtpd"],
        env=environment(house, SMTPD_LISTEN=f"127.0.0.1:{port}"),
        cwd=TOP,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        pause = threading.Event()
        while not _says(ready, process.pid) and time.monotonic() < until:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            pause.wait(0.05)
        assert _says(ready, process.pid)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def start_and_fail(house: House, **changes: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "workers.smtpd"],
        env=environment(house, **changes),
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_takes_mail_reads_a_new_certificate_and_stops(house: House) -> None:
    port = free_port()
    with running(house, port) as process:
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.starttls(context=trusting(house.directory))
            client.login("news", TOKEN)
            client.sendmail("news@shop.test", ["a@example.com"], MESSAGE)
        assert [row[0] for row in house.accepted()] == ["a@example.com"]
        make_certificate(house.directory)
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        for line in process.stderr:
            if "certificate read again" in line:
                break
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.starttls(context=trusting(house.directory))
        with Wire(port) as wire:
            wire.reply()
            process.send_signal(signal.SIGTERM)
            assert wire.reply().startswith("421 4.3.2")
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "SMTPD_LISTEN is not set"),
        ({"SMTPD_LISTEN": "127.0.0.1:1", "SMTPD_TLS_CERT": "/nowhere"}, "No such file"),
        ({"SMTPD_LISTEN": "127.0.0.1:1", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "policy"),
    ],
)
def test_what_keeps_it_from_starting_is_said(
    house: House, changes: dict[str, str], why: str
) -> None:
    assert why in start_and_fail(house, **changes)


def test_an_address_in_use_is_said(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = start_and_fail(house, SMTPD_LISTEN=f"127.0.0.1:{taken.getsockname()[1]}")
    assert "address already in use" in said.lower()


@pytest.mark.kill
def test_nothing_that_got_250_is_missing_after_a_kill(house: House) -> None:
    port = free_port()
    told: list[str] = []
    with running(house, port) as process:

        def client(number: int) -> None:
            with contextlib.suppress(OSError, ValueError), Wire(port) as wire:
                wire.reply()
                wire.ask(b"EHLO x\r\n")
                for count in range(10_000):
                    name = b"r%d.%d@" % (number, count)
                    wire.ask(ENVELOPE.replace(b"a@", name), replies=3)
                    (reply,) = wire.ask(MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n")
                    if not reply.startswith("250 2.0.0 queued as "):
                        return
                    told.append(f"{name.decode()}example.com {reply.split()[-1]}")

        clients = [threading.Thread(target=client, args=(number,)) for number in range(10)]
        for one in clients:
            one.start()
        until = time.monotonic() + 60
        pause = threading.Event()
        while len(told) < 300 and time.monotonic() < until:
            pause.wait(0.01)
        os.kill(process.pid, signal.SIGKILL)
        for one in clients:
            one.join(timeout=30)
    rows = {
        f"{recipient} {message_id}"
        for recipient, message_id in house.query("SELECT recipient, message_id FROM ledger_row")
    }
    assert len(told) >= 300
    assert set(told) <= rows
    assert len(house.accepted()) == len(rows), "each row has its content"

"""Sockets that are cut, wrong, slow or too many: nothing is smuggled, and every wait ends."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from mailio.smtp_session import Patience
from tests.support.smtpd import ENVELOPE, MESSAGE, House, Listening, Wire, trusting

WRONG_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\rx",
    b"\r\n\x00.\r\n",
    b"\r\r\n.\r\r\n",
]


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("end", WRONG_ENDS)
def test_smuggled_commands_reach_nobody(
    house: House, server: Listening, end: bytes, *, is_tls: bool
) -> None:
    smuggled = ENVELOPE.replace(b"a@", b"victim@") + MESSAGE + b".\r\nQUIT\r\n"
    raw: socket.socket = socket.create_connection(
        ("127.0.0.1", server.tls_port if is_tls else server.port), timeout=60
    )
    with trusting(house.directory).wrap_socket(raw) if is_tls else raw as wire:
        for said, last in ((b"", "220"), (b"EHLO x\r\n", "250"), (ENVELOPE, "354")):
            wire.sendall(said)
            heard = b""
            while f"\n{last} ".encode() not in b"\n" + heard:
                heard += wire.recv(4096)
        wire.sendall(MESSAGE.removesuffix(b"\r\n") + end + smuggled)
        heard = b""
        while piece := wire.recv(4096):
            heard += piece
            if is_tls:
                break
    assert heard.startswith(b"554 5.6.0 ")
    assert heard.count(b"\r\n") == 1
    assert house.accepted() == []


def test_a_command_injected_before_the_handshake_is_not_obeyed(
    house: House, server: Listening
) -> None:
    with Wire(server.port) as wire:
        wire.reply()
        wire.ask(b"EHLO x\r\n")
        assert wire.ask(b"STARTTLS\r\nMAIL FROM:<evil@shop.test>\r\n")[0].startswith("503 5.5.1")
        assert wire.reply() == ""


def test_what_a_client_sends_with_its_handshake_is_not_lost(
    house: House, server: Listening
) -> None:
    """TLS 1.3 lets a client send its EHLO together with its Finished."""
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    raw.recv(4096)
    raw.sendall(b"EHLO x\r\n")
    raw.recv(4096)
    raw.sendall(b"STARTTLS\r\n")
    raw.recv(4096)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(house.directory).wrap_bio(incoming, outgoing)
    with raw:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(16384))
        tls.write(b"EHLO x\r\n")
        raw.sendall(outgoing.read())
        heard = b""
        while b"250 REQUIRETLS" not in heard:
            incoming.write(raw.recv(16384))
            try:
                heard += tls.read(4096)
            except ssl.SSLWantReadError:
                continue
    assert b"AUTH PLAIN LOGIN" in heard


def test_plain_text_where_tls_is_due_ends_the_session(server: Listening) -> None:
    with Wire(server.port) as wire:
        wire.reply()
        wire.ask(b"EHLO x\r\n")
        assert wire.ask(b"STARTTLS\r\n")[0].startswith("220")
        wire.send(b"EHLO evil\r\nMAIL FROM:<evil@shop.test>\r\n")
        assert not wire.reply().startswith("250")


def test_every_wait_has_its_end(house: House) -> None:
    quick = Patience(
        command_s=0.3, block_s=0.3, content_s=0.6, tls_s=0.3, write_s=0.3, linger_s=0.2
    )
    with Listening(house, patience=quick) as server:
        with Wire(server.port) as wire:  # silent
            wire.reply()
            assert wire.reply() == "421 4.4.2 timed out, closing\r\n"
            assert wire.reply() == ""
        with Wire(server.port) as wire:  # half a line
            wire.reply()
            wire.send(b"EHL")
            assert wire.reply().startswith("421 4.4.2")
        with Wire(server.port) as wire:  # content that drips for ever
            wire.reply()
            wire.ask(b"EHLO x\r\n")
            wire.ask(ENVELOPE, replies=3)
            ending = threading.Event()
            dripping = threading.Thread(target=drip, args=(wire, ending))
            dripping.start()
            assert wire.reply().startswith("421 4.4.2")
            ending.set()
            dripping.join()
        with Wire(server.port) as wire:  # chunks that drip for ever
            wire.reply()
            wire.ask(b"EHLO x\r\n")
            wire.ask(ENVELOPE.removesuffix(b"DATA\r\n"), replies=2)
            ending = threading.Event()
            dripping = threading.Thread(target=drip, args=(wire, ending, b"BDAT 1\r\nx"))
            dripping.start()
            while (answer := wire.reply()).startswith("250"):
                pass
            assert answer.startswith("421 4.4.2")
            ending.set()
            dripping.join()
        with Wire(server.tls_port) as wire:  # no handshake
            assert wire.reply() == ""
        with Wire(server.port) as wire:  # no handshake behind STARTTLS
            wire.reply()
            wire.ask(b"EHLO x\r\n")
            wire.ask(b"STARTTLS\r\n")
            assert wire.reply() == ""
        assert server.server.gauge.held == 0


def drip(wire: Wire, ending: threading.Event, drop: bytes = b"x") -> None:
    while not ending.wait(0.05):
        try:
            wire.send(drop)
        except OSError:
            return


def test_a_client_that_reads_no_answers_is_cut_off(house: House) -> None:
    """Its commands are not read either, once the answers pile up."""
    with (
        Listening(house, patience=Patience(write_s=0.3)) as server,
        Wire(server.port, receive_bytes=2048) as wire,
    ):
        wire.reply()
        wire.ask(b"EHLO x\r\n")
        wire.ask(b"MAIL FROM:<news@shop.test>\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            wire.send(b"RCPT TO:<x>\r\n" * 5_000_000)


def test_connections_are_counted(house: House) -> None:
    with (
        Listening(house, connections=2) as server,
        Wire(server.port) as first,
        Wire(server.port) as second,
    ):
        assert first.reply().startswith("220")
        assert second.reply().startswith("220")
        with Wire(server.port) as third:
            assert third.reply().startswith("421 4.3.2")
    with Listening(house, connections_per_address=1) as server:
        with Wire(server.port) as first:
            first.reply()
            with Wire(server.port) as second:
                assert second.reply().startswith("421 4.7.0")
            first.ask(b"QUIT\r\n")
            assert first.reply() == ""
        with Wire(server.port) as third:
            assert third.reply().startswith("220")


def test_who_speaks_tls_at_once_is_counted_before_the_handshake(house: House) -> None:
    with (
        Listening(house, connections_per_address=2) as server,
        Wire(server.tls_port),
        Wire(server.tls_port),
    ):
        with Wire(server.tls_port) as third:
            assert third.reply() == ""
        with Wire(server.port) as fourth:
            assert fourth.reply().startswith("421 4.7.0")


@pytest.mark.parametrize("is_at_once", [False, True])
def test_a_handshake_that_is_cut_gives_its_place_back(house: House, *, is_at_once: bool) -> None:
    with Listening(house, connections=1) as server:
        with Wire(server.tls_port if is_at_once else server.port) as cut:
            if not is_at_once:
                cut.reply()
                cut.ask(b"EHLO x\r\n")
                assert cut.ask(b"STARTTLS\r\n")[0].startswith("220")
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            with pytest.raises(ssl.SSLWantReadError):
                trusting(house.directory).wrap_bio(incoming, outgoing).do_handshake()
            cut.send(outgoing.read())
            assert cut.octet()  # of its hello
            cut.reset()
        heard = ""
        while not heard.startswith("220"):  # for ever if its place is lost
            with Wire(server.port) as following:
                heard = following.reply()
        assert len(server.server.sessions) <= 1


def test_stopping_answers_everybody(house: House) -> None:
    server = Listening(house)
    with server, Wire(server.port) as idle, Wire(server.port) as busy:
        idle.reply()
        busy.reply()
        busy.ask(b"EHLO x\r\n")
        busy.ask(ENVELOPE, replies=3)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert idle.reply().startswith("421 4.3.2")
        busy.send(MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert busy.reply().startswith("250 2.0.0")
        assert busy.reply().startswith("421 4.3.2")
        busy.end()
        idle.end()
        stopping.join(timeout=20)
        assert not stopping.is_alive()
    assert len(house.accepted()) == 1

"""A relay that stalls, drips, refuses or repeats what it was told: it holds nobody up for long, and
the password is never told on."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from control.notify.errors import NotSent
from control.notify.letters import Letter, Mail, write
from control.notify.relay import Relay, send_by_relay

PASSWORD = "open sesame"
PLAIN = base64.b64encode(b"\0ann\0open sesame")
Manners = Callable[[socket.socket, threading.Event], None]


def drip(line: socket.socket, gone: threading.Event) -> None:
    """Greet in lines without end, an octet at a time."""
    while not gone.wait(0.02):
        for octet in b"220-hello\r\n":
            line.sendall(bytes([octet]))


def stall(line: socket.socket, gone: threading.Event) -> None:
    """Take the connection and say nothing."""
    gone.wait()


def stall_at_tls(line: socket.socket, gone: threading.Event) -> None:
    """Offer TLS, and say nothing once it is wanted."""
    line.sendall(b"220 hello\r\n")
    line.recv(500)
    line.sendall(b"250-hello\r\n250 STARTTLS\r\n")
    line.recv(500)
    line.sendall(b"220 go on\r\n")
    gone.wait()


def repeat(line: socket.socket, gone: threading.Event) -> None:
    """Refuse the login and repeat it."""
    line.sendall(b"220 hello\r\n")
    line.recv(500)
    line.sendall(b"250-hello\r\n250 AUTH PLAIN\r\n")
    while command := line.recv(500):
        line.sendall(b"535 5.7.8 what is " + command.strip() + b" open sesame?\r\n")


@contextlib.contextmanager
def behaving(manners: Manners) -> Iterator[int]:
    """Serve one connection in this manner on a port of loopback."""
    gone = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError), door.accept()[0] as line:
            manners(line, gone)

    with socket.create_server(("127.0.0.1", 0)) as door:
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield door.getsockname()[1]
        finally:
            gone.set()
            server.join()


def mail() -> Mail:
    return write(
        Letter(subject="Test", opening="It is one."),
        sender="postfleet@example.com",
        display_name="Postfleet",
        recipient="ann@example.com",
        mark="system.1",
        language="en",
    )


def with_login(port: int, password: str) -> Relay:
    return Relay("127.0.0.1", port, login="ann", password=password, without_tls=True)


@pytest.mark.parametrize("manners", [drip, stall])
def test_a_relay_that_greets_for_ever_or_never_is_left(manners: Manners) -> None:
    with behaving(manners) as port, pytest.raises(NotSent, match="did not take it within"):
        send_by_relay(Relay("127.0.0.1", port, without_tls=True), mail(), session_s=0.5)


def test_a_relay_that_stalls_while_tls_begins_is_left() -> None:
    with behaving(stall_at_tls) as port, pytest.raises(NotSent, match="did not take it within"):
        send_by_relay(Relay("127.0.0.1", port), mail(), session_s=0.5)


def test_tls_from_the_first_octet_is_watched_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    with behaving(stall) as port:
        monkeypatch.setattr("control.notify.relay.IMPLICIT_TLS_PORT", port)
        with pytest.raises(NotSent, match="did not take it within"):
            send_by_relay(Relay("127.0.0.1", port), mail(), session_s=0.5)


def test_a_relay_that_repeats_the_login_tells_nobody_the_password() -> None:
    with behaving(repeat) as port, pytest.raises(NotSent, match=r"535 5\.7\.8") as caught:
        send_by_relay(with_login(port, PASSWORD), mail())
    assert PASSWORD not in str(caught.value)
    assert PLAIN.decode() not in str(caught.value)


def test_a_password_that_cannot_be_said_is_named_as_the_reason() -> None:
    with behaving(repeat) as port, pytest.raises(NotSent, match="only ASCII"):
        send_by_relay(with_login(port, "söme"), mail())

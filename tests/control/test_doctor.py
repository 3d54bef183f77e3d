"""Live mode starts only where mail can leave: asked of a name server and a receiver on loopback."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from django.core.management import CommandError, call_command

from control.management.fleet.doctor import check
from control.management.fleet.house import FleetError
from tests.support.dns_peer import NameServer, answering

RECORDS = {
    "MX live.test": ["10 mx.live.test."],
    "A mx.live.test": ["127.0.0.1"],
    "PTR 1.0.0.127.in-addr.arpa": ["out.sender.test."],
    "MX none.test": ["0 ."],
}


@pytest.fixture
def dns_port() -> Iterator[str]:
    """A name server on a loop of its own: the check runs one itself."""
    loop = asyncio.new_event_loop()
    ready, ended = threading.Event(), asyncio.Event()
    server = NameServer(RECORDS)
    server.silent.add("silent.test")

    async def serve() -> None:
        async with answering(server):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(60)
    yield str(server.port)
    loop.call_soon_threadsafe(ended.set)
    thread.join(60)
    loop.close()


def greeter(line: bytes) -> tuple[socket.socket, str]:
    """A receiver that greets one client."""
    server = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            client.sendall(line)
            client.recv(100)

    threading.Thread(target=greet, daemon=True).start()
    return server, str(server.getsockname()[1])


def world(dns_port: str, smtp_port: str = "1") -> dict[str, str]:
    return {"DNS_RESOLVER": f"127.0.0.1:{dns_port}", "SMTP_PORT": smtp_port}


def test_a_host_from_which_mail_can_leave_is_told_its_greeting_and_its_name(dns_port: str) -> None:
    server, port = greeter(b"220 mx.live.test ESMTP\r\n")
    with server:
        found = check("live.test", world(dns_port, port))
    assert found.greeting == "220 mx.live.test ESMTP"
    assert found.names == ("out.sender.test",)
    assert "out.sender.test" in "\n".join(found.lines())


def test_a_closed_port_is_refused_naming_who_was_tried(dns_port: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        with pytest.raises(FleetError, match=rf"port {port}.*mx\.live\.test \[127\.0\.0\.1\]"):
            check("live.test", world(dns_port, port))


def test_what_is_no_mail_server_is_no_way_out(dns_port: str) -> None:
    server, port = greeter(b"HTTP/1.1 400 Bad Request\r\n")
    with server, pytest.raises(FleetError, match="does not greet as a mail server"):
        check("live.test", world(dns_port, port))


@pytest.mark.parametrize(
    ("domain", "said"), [("none.test", "receives no mail"), ("missing.test", "receives no mail")]
)
def test_a_domain_without_mail_is_named(dns_port: str, domain: str, said: str) -> None:
    with pytest.raises(FleetError, match=said):
        check(domain, world(dns_port))


def test_a_resolver_that_is_silent_or_wrong_is_named(
    dns_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.management.fleet.doctor.TIMEOUT_S", 0.2)
    with pytest.raises(FleetError, match="resolver does not answer"):
        check("silent.test", world(dns_port))
    with pytest.raises(FleetError, match="DNS_RESOLVER"):
        check("live.test", {"DNS_RESOLVER": "127.0.0.1:x"})


def test_live_mode_without_a_domain_to_try_starts_nothing_and_says_what_to_do() -> None:
    with pytest.raises(CommandError, match=r"make run MODE=live PROBE=example\.com"):
        call_command("fleet", "run", "--mode", "live")

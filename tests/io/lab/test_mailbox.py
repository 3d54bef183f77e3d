"""Mailboxes keep what they are given, and are read by POP3 as the standard has it."""

import asyncio
import contextlib
import poplib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from lab.maildrop import Maildrop, Report, ReportKind
from lab.run import Lab
from tests.io.lab.support import running

T = TypeVar("T")
REPORT = Report(
    ReportKind.LATE_BOUNCED, "accepta", "id", "u@accepta.test", "b@sender.test", "5.1.1", 1.5
)


def log_in(lab: Lab, user: str = "bounces") -> poplib.POP3:
    pop = poplib.POP3("127.0.0.1", lab.mailboxes.port, timeout=60)
    try:
        pop.user(user)
        pop.pass_(f"lab-{user}")
    except poplib.error_proto:
        pop.close()
        raise
    return pop


def fill(lab: Lab, count: int) -> None:
    for number in range(count):
        lab.drops["bounces"].append(b"Subject: %d\r\n\r\n.one\r\ntwo\r\n..three\r\n" % number)


async def in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def test_mail_is_listed_read_and_deleted_at_quit(lab: Lab) -> None:
    fill(lab, 3)

    def read() -> None:
        pop = log_in(lab)
        size = len(b"Subject: 0\r\n\r\n.one\r\ntwo\r\n..three\r\n")
        assert pop.stat() == (3, 3 * size)
        assert pop.list()[1] == [b"%d %d" % (number, size) for number in (1, 2, 3)]
        assert b"2 %d" % size in pop.list(2)  # one line: octets, whatever the stubs say
        uids = pop.uidl()[1]
        assert [uid.split(b".")[1] for uid in uids] == [b"00000001", b"00000002", b"00000003"]
        assert pop.uidl()[1] == uids
        assert pop.retr(2)[1] == [b"Subject: 1", b"", b".one", b"two", b"..three"]
        assert pop.top(3, 0)[1] == [b"Subject: 2", b""]
        assert pop.top(3, 2)[1] == [b"Subject: 2", b"", b".one", b"two"]
        assert pop.top(3, 99)[1][-1] == b"..three"
        pop.dele(1)
        with pytest.raises(poplib.error_proto, match="no such message"):
            pop.retr(1)
        assert pop.stat()[0] == 2
        pop.rset()
        assert pop.stat()[0] == 3
        pop.noop()
        pop.dele(3)
        pop.quit()
        pop = log_in(lab)
        assert pop.uidl()[1] == uids[:2]
        pop.quit()

    await in_thread(read)


async def test_a_reader_that_goes_without_quit_has_deleted_nothing(lab: Lab) -> None:
    fill(lab, 1)

    def go() -> None:
        pop = log_in(lab)
        pop.dele(1)
        pop.close()

    await in_thread(go)
    while lab.mailboxes.sessions:
        await asyncio.sleep(0.001)
    assert len(lab.drops["bounces"]) == 1


async def test_one_mailbox_has_one_reader_and_the_other_is_free(lab: Lab) -> None:
    def read() -> None:
        first = log_in(lab)
        with pytest.raises(poplib.error_proto, match="IN-USE"):
            log_in(lab)
        log_in(lab, "complaints").quit()
        first.quit()
        log_in(lab).quit()

    await in_thread(read)


async def test_a_wrong_password_is_refused_and_the_third_ends_the_session(lab: Lab) -> None:
    def read() -> None:
        pop = poplib.POP3("127.0.0.1", lab.mailboxes.port, timeout=60)
        for user in ("bounces", "nobody"):
            pop.user(user)
            with pytest.raises(poplib.error_proto, match="AUTH"):
                pop.pass_("wrong")
        pop.user("bounces")
        with pytest.raises(poplib.error_proto, match="too many"):
            pop.pass_("wrong")
        # The line is closed behind the answer: what is written then may still meet a reset.
        with contextlib.closing(pop), pytest.raises((poplib.error_proto, ConnectionError)) as ended:
            pop.noop()
        assert isinstance(ended.value, ConnectionError) or "EOF" in str(ended.value)

    await in_thread(read)


async def test_tls_by_stls_and_from_the_start_with_the_certificate_of_the_lab(lab: Lab) -> None:
    fill(lab, 1)
    trusting = ssl.create_default_context(cafile=str(lab.mailboxes.certificate))

    def read() -> None:
        pop = poplib.POP3("127.0.0.1", lab.mailboxes.port, timeout=60)
        assert "STLS" in pop.capa()
        pop.stls(trusting)
        assert "STLS" not in pop.capa()
        pop.user("bounces")
        pop.pass_("lab-bounces")
        assert pop.stat()[0] == 1
        pop.quit()
        other = poplib.POP3_SSL("127.0.0.1", lab.mailboxes.tls_port, timeout=60, context=trusting)
        other.user("bounces")
        other.pass_("lab-bounces")
        assert other.stat()[0] == 1
        other.quit()

    await in_thread(read)


async def exchange(lab: Lab, octets: bytes) -> list[bytes]:
    """Send octets at once and return all lines until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.mailboxes.port)
    writer.write(octets)
    lines = (await reader.read()).split(b"\r\n")
    writer.close()
    await writer.wait_closed()
    return lines[:-1]


async def test_what_comes_in_clear_behind_stls_is_thrown_away(lab: Lab) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.mailboxes.port)
    writer.write(b"STLS\r\nUSER bounces\r\n")
    await reader.readline()
    assert await reader.readline() == b"+OK shake hands\r\n"
    trusting = ssl.create_default_context(cafile=str(lab.mailboxes.certificate))
    await writer.start_tls(trusting, server_hostname="localhost")
    writer.write(b"PASS lab-bounces\r\n")
    assert await reader.readline() == b"-ERR say USER first\r\n"
    writer.transport.abort()


async def test_commands_may_be_pipelined(lab: Lab) -> None:
    fill(lab, 300)
    retrieve = b"".join(b"RETR %d\r\nDELE %d\r\n" % (n, n) for n in range(1, 301))
    lines = await exchange(lab, b"USER bounces\r\nPASS lab-bounces\r\n" + retrieve + b"QUIT\r\n")
    assert lines.count(b".") == 300
    assert lines.count(b"+OK marked") == 300
    assert len(lab.drops["bounces"]) == 0


@pytest.mark.parametrize(
    "command",
    [b"RETR 1", b"FLY", b"USER bounces\nQUIT", b"\xff\xfe", b"PASS x", b"USER " + b"x" * 600],
)
async def test_a_bad_command_before_the_login_is_answered_err(lab: Lab, command: bytes) -> None:
    lines = await exchange(lab, command + b"\r\nQUIT\r\n")
    assert lines[1].startswith(b"-ERR ")
    assert lines[-1].startswith((b"+OK bye", b"-ERR"))


@pytest.mark.parametrize(
    "command", [b"RETR", b"RETR 0", b"RETR 2", b"RETR x", b"TOP 1", b"TOP 1 -1", b"USER a"]
)
async def test_a_bad_command_after_it_too(lab: Lab, command: bytes) -> None:
    fill(lab, 1)
    octets = b"USER bounces\r\nPASS lab-bounces\r\n" + command + b"\r\nQUIT\r\n"
    lines = await exchange(lab, octets)
    assert lines[3].startswith(b"-ERR ")
    assert lines[4] == b"+OK bye"


async def test_an_idle_reader_is_sent_away(lab: Lab) -> None:
    lab.mailboxes.idle_timeout_s = 0.05
    assert await exchange(lab, b"") == [b"+OK the lab's mailboxes"]


async def test_the_lab_ends_though_a_reader_hangs_in_a_handshake(tmp_path: Path) -> None:
    async with running(tmp_path) as lab:
        hanging = socket.create_connection(("127.0.0.1", lab.mailboxes.port), timeout=60)
        hanging.sendall(b"STLS\r\n")
        while not any(session._is_upgrading for session in lab.mailboxes.sessions):
            await asyncio.sleep(0.001)
    assert not lab.mailboxes.sessions
    hanging.close()


def test_a_maildrop_survives_a_restart_with_its_reports_and_rising_ids(tmp_path: Path) -> None:
    path = tmp_path / "one.mail"
    drop = Maildrop(path)
    first, second = drop.append(b"first\r\n", REPORT), drop.append(b"{second}\n\r\n")
    drop.remove([first, "unknown"])
    drop.close()
    with path.open("ab") as file:
        file.write(b'{"uid":"1.00000003","size":50}\nhalf of it')
    drop = Maildrop(path)
    assert [mail.uid for mail in drop.listing()] == [second]
    assert drop.read(second) == b"{second}\n\r\n"
    assert drop.reports == [REPORT]  # though its mail was fetched and deleted
    third = drop.append(b"third")
    assert third > second
    with pytest.raises(KeyError):
        drop.read(first)
    drop.clear()
    assert (drop.listing(), drop.reports, drop.size_bytes) == ([], [], 0)
    drop.close()
    drop = Maildrop(path)
    assert drop.append(b"fourth") > third
    drop.close()

"""The test stack itself: each real service answers, forgets or keeps what it should, and none is
left behind."""

from __future__ import annotations

import imaplib
import os
import poplib
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import psycopg2
import pytest
import redis

from mailio.stats import open_statistics
from tests.support.fleet import eventually
from tests.support.services import (
    ClickhouseServer,
    Dovecot,
    Postfix,
    PostgresServer,
    RabbitMq,
    RedisServer,
)
from tests.support.services.postfix import LATE_DOMAIN, STRICT_DOMAIN, program

HOST = "127.0.0.1"
LETTER = b"From: a@sender.test\r\nSubject: %s\r\n\r\nHello.\r\n"
ORPHANS = """
import os, sys
from tests.support.services import RabbitMq, RedisServer, service
print(service("redis_server", RedisServer).port, flush=True)
service("rabbitmq", RabbitMq)
print("up", flush=True)
sys.stdin.read()
"""


def subjects(line: poplib.POP3) -> list[str | None]:
    """Return the subjects of all messages in a mailbox, in order."""
    numbers = range(1, len(line.list()[1]) + 1)
    contents = (b"\r\n".join(line.retr(number)[1]) for number in numbers)
    return [message_from_bytes(content)["Subject"] for content in contents]


def collect(dovecot: Dovecot, user: str, password: str) -> list[bytes]:
    """Return the messages of a mailbox, over POP3."""
    line = poplib.POP3(HOST, dovecot.pop3_port)
    line.user(user)
    line.pass_(password)
    try:
        return [b"\r\n".join(line.retr(n + 1)[1]) for n in range(line.stat()[0])]
    finally:
        line.quit()


# ── stores ────────────────────────────────────────────────────────────────────────────────────


def test_postgres_keeps_what_was_committed_through_a_kill(postgres_server: PostgresServer) -> None:
    url = postgres_server.database()
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 7 AS number")
    connection.close()
    postgres_server.restart()
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, current_setting('server_version_num')::int FROM kept")
        number, version = cursor.fetchone() or (0, 0)
    connection.close()
    assert number == 7
    assert version // 10000 == 15


def test_redis_is_empty_after_a_restart(redis_server: RedisServer) -> None:
    client: redis.Redis = redis.Redis.from_url(redis_server.database())
    assert client.set("pf:mark", "here")
    redis_server.restart()
    assert client.get("pf:mark") is None
    client.close()


def test_the_base_tables_stand_on_the_oldest_clickhouse_and_survive_a_restart(
    clickhouse_server: ClickhouseServer,
) -> None:
    url = clickhouse_server.database()
    statistics = open_statistics(url)
    statistics.migrate()
    assert clickhouse_server.version.startswith("18.16.")
    clickhouse_server.restart()
    again = open_statistics(url)
    assert again.final_counts(campaign="none") == {}
    for one in (statistics, again):
        one.close()


def test_each_virtual_host_of_the_node_is_a_broker_of_its_own(rabbitmq: RabbitMq) -> None:
    one, other = rabbitmq.virtual_host(), rabbitmq.virtual_host()
    assert one != other
    rabbitmq.ask("PUT", f"/queues/{one.rpartition('/')[2]}/main", {"durable": True})
    assert list(rabbitmq.queues(one)) == ["main"]
    assert rabbitmq.queues(other) == {}


# ── mail ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["plain", "stls", "tls"])
def test_what_is_delivered_is_read_by_pop3_in_the_order_it_came(dovecot: Dovecot, way: str) -> None:
    user = f"reader-{way}"
    password = dovecot.add_user(user)
    dovecot.deliver(user, *(LETTER % number for number in (b"one", b"two", b"three")))
    if way == "tls":
        line: poplib.POP3 = poplib.POP3_SSL("localhost", dovecot.pop3s_port, context=dovecot.tls())
    else:
        line = poplib.POP3("localhost", dovecot.pop3_port)
    if way == "stls":
        line.stls(dovecot.tls())
    line.user(user)
    line.pass_(password)
    assert subjects(line) == ["one", "two", "three"]
    assert len({row.split()[1] for row in line.uidl()[1]}) == 3
    line.quit()


def test_the_same_mailbox_is_there_over_imap(dovecot: Dovecot) -> None:
    password = dovecot.add_user("imap-reader")
    dovecot.deliver("imap-reader", LETTER % b"one")
    with imaplib.IMAP4(HOST, dovecot.imap_port) as line:
        line.login("imap-reader", password)
        assert line.select()[1] == [b"1"]


def test_mail_for_a_user_nobody_made_is_an_error(dovecot: Dovecot) -> None:
    with pytest.raises(KeyError, match="stranger"):
        dovecot.deliver("stranger", b"x")


def test_postfix_puts_mail_into_the_mailbox_and_refuses_a_stranger(
    dovecot: Dovecot, postfix: Postfix
) -> None:
    password = postfix.add_user("ann")
    with smtplib.SMTP(HOST, postfix.port) as client:
        refused = client.sendmail(
            "a@sender.test",
            [f"ann@{STRICT_DOMAIN}", f"nobody@{STRICT_DOMAIN}"],
            LETTER % b"direct",
        )
    assert {who: code for who, (code, _) in refused.items()} == {f"nobody@{STRICT_DOMAIN}": 550}
    eventually(lambda: len(collect(dovecot, "ann", password)) == 1, what=postfix.log)
    [letter] = collect(dovecot, "ann", password)
    assert b"Return-Path: <a@sender.test>" in letter


def test_a_late_bounce_of_postfix_comes_to_the_return_path(
    dovecot: Dovecot, postfix: Postfix
) -> None:
    password = dovecot.add_user("bounces")
    postfix.route("@return.test", "bounces")
    with smtplib.SMTP(HOST, postfix.port) as client:
        client.sendmail("v1-abc@return.test", [f"nobody@{LATE_DOMAIN}"], LETTER % b"late")
    eventually(lambda: len(collect(dovecot, "bounces", password)) == 1, what=postfix.log)
    report = message_from_bytes(collect(dovecot, "bounces", password)[0])
    assert report.get_content_type() == "multipart/report"
    status = next(p for p in report.walk() if p.get_content_type() == "message/delivery-status")
    assert "5.1.1" in status.as_string()
    assert report["X-Original-To"] == "v1-abc@return.test"
    eventually(lambda: postfix.queue_size() == 0)


def test_postfix_leaves_the_systems_own_directories_alone(postfix: Postfix) -> None:
    pid = postfix.pid
    assert pid is not None
    opened = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    assert not [path for path in opened if path.startswith(("/etc/postfix", "/var/spool/postfix"))]
    assert os.readlink(f"/proc/{pid}/cwd").endswith("/postfix/queue")


def test_the_load_tools_of_postfix_run_unpacked(dovecot: Dovecot, postfix: Postfix) -> None:
    password = postfix.add_user("load")
    tool, env = program("smtp-source")
    to = ["-f", "a@sender.test", "-t", f"load@{STRICT_DOMAIN}", f"inet:{HOST}:{postfix.port}"]
    subprocess.run([tool, "-m", "20", "-s", "4", *to], env=env, check=True, timeout=30)
    eventually(lambda: len(collect(dovecot, "load", password)) == 20, what=postfix.log)


# ── the end ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that daemons of other users can reach, which pytest's own is not."""
    directory = Path(tempfile.mkdtemp(prefix="postfleet-orphans-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def test_nothing_is_left_behind_by_a_session_that_was_killed(
    rabbitmq: RabbitMq, redis_server: RedisServer, open_directory: Path
) -> None:
    env = {**os.environ, "TMPDIR": str(open_directory)}
    session = subprocess.Popen(
        [sys.executable, "-c", ORPHANS],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert session.stdin is not None
    assert session.stdout is not None
    try:
        session.stdout.readline()
        assert session.stdout.readline() == "up\n"
        assert {"beam.smp", "epmd", "redis-server"} <= running_below(open_directory)
    finally:
        session.send_signal(signal.SIGKILL)
        session.wait()
        session.stdin.close()
        session.stdout.close()
    eventually(
        lambda: not running_below(open_directory), what=lambda: running_below(open_directory)
    )


def running_below(directory: Path) -> set[str]:
    """Return the names of processes that work in a directory or have their home there."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = os.readlink(entry / "cwd")
                environ = (entry / "environ").read_bytes().decode(errors="replace")
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if where.startswith(str(directory)) or f"HOME={directory}" in environ:
                found.add(name)
    return found

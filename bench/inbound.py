"""How fast reports are read from one real mailbox, and how much memory that takes.

Gives    a command: `PYTHONPATH=.:platform python bench/inbound.py [--messages 100000] [--kill]`; it
         prints messages, seconds, messages per second and the peak of memory of the reader
Takes    Debian's dovecot-pop3d; PostgreSQL and chdb of the embedded stack
Raises   AssertionError if a report was lost or counted twice

Nine of ten messages are bounces, one is a complaint. PostgreSQL runs without fsync here, as in the
tests; the reader is a process of its own. With --kill it dies by SIGKILL when half of the messages
are committed, whatever it is at then, and another takes over.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg2

from mailcore.events import decode_lines, encode_lines
from mailio.ledger import schema
from mailio.stats import open_statistics
from tests.support.poll_once import Job, start
from tests.support.reports import bounce, complaint, delivered
from tests.support.services import Dovecot, service
from tests.support.stack import chdb_url, postgres_url

PORTION = 10_000
USER = "bench"
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


def main() -> None:
    """Fill a mailbox, read it, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--kill", action="store_true", help="kill the reader midway")
    arguments = parser.parse_args()
    messages: int = arguments.messages
    dovecot = service("dovecot", Dovecot)
    password = dovecot.add_user(USER)
    database, statistics = postgres_url(), chdb_url()
    schema.migrate(database)
    _fill(dovecot, statistics, messages)
    job = Job(database, statistics, dovecot.pop3s_port, USER, password, str(dovecot.certificate))
    began = time.monotonic()
    peak_kib, killed_at = 0, 0
    if arguments.kill:
        peak_kib, killed_at = _killed(job, messages // 2)
    child = start(job)
    said, _ = child.communicate()
    seconds = time.monotonic() - began
    _, count, last_peak_kib = said.splitlines()[-1].split()
    peak_kib = max(peak_kib, int(last_peak_kib))
    _check(database, messages, counted=killed_at + int(count))
    left = len(list(dovecot.maildir(USER).glob("*/*")))
    assert left == 0, left
    print(
        f"inbound: messages={messages} killed_at={killed_at} seconds={seconds:.1f}"
        f" per_second={messages / seconds:.0f} peak_mib={peak_kib / 1024:.0f} counted_once=yes"
    )


def _fill(dovecot: Dovecot, statistics: str, messages: int) -> None:
    """Put reports into the mailbox, and what they are about into the statistics."""
    store = open_statistics(statistics)
    store.migrate()
    for first in range(0, messages, PORTION):
        events = [delivered(n) for n in range(first, min(first + PORTION, messages))]
        store.insert([encode_lines(events)])
        reports = (complaint(e) if n % 10 == 0 else bounce(e) for n, e in enumerate(events))
        dovecot.deliver(USER, *reports)
    store.close()


def _killed(job: Job, after: int) -> tuple[int, int]:
    """Kill a reader when it has committed so many; return its peak of memory in KiB, and how many
    messages the ledger has then."""
    child = start(job)
    assert child.stdout is not None
    for _ in range(after // job.batch):
        assert child.stdout.readline() == "recorded\n"
    status = Path(f"/proc/{child.pid}/status").read_text()
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    while _query(job.database_url, LOCKS) != [(0,)]:  # the server has yet to notice
        time.sleep(0.02)  # noqa: TID251 - between two looks at another process
    ((committed,),) = _query(job.database_url, "SELECT sum(messages)::int FROM mailbox_tally")
    return peak_kib, committed


def _check(database: str, messages: int, *, counted: int) -> None:
    """Raise AssertionError unless every report made one event and was counted once."""
    kinds = _told(database)
    assert kinds == {"late_bounced": messages * 9 // 10, "complained": messages // 10}, kinds
    assert counted == messages, counted
    tally = dict(_query(database, "SELECT kind, messages FROM mailbox_tally WHERE fate = 'told'"))
    assert tally == {"bounce": messages * 9 // 10, "complaint": messages // 10}, tally


def _told(url: str) -> Counter[str]:
    rows = _query(url, "SELECT body FROM ledger_outbox")
    events = [event for (body,) in rows for event in decode_lines(bytes(body))]
    assert len({event.event_id for event in events}) == len(events)
    return Counter(event.kind for event in events)


def _query(url: str, sql: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(sql)
        rows = cursor.fetchall()
    connection.close()
    return rows


if __name__ == "__main__":
    main()

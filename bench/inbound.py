"""How fast reports are read from one real mailbox, and how much memory that takes.

Gives    a command: `PYTHONPATH=.:platform python bench/inbound.py [--messages 100000]`; it prints
         messages, seconds, messages per second and the peak of memory of the reader
Takes    Debian's dovecot-pop3d; PostgreSQL and chdb of the embedded stack
Raises   AssertionError if a report was lost or counted twice

Nine of ten messages are bounces, one is a complaint. PostgreSQL runs without fsync here, as in the
tests; the reader is a process of its own.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

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


def main() -> None:
    """Fill a mailbox, read it, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    messages = parser.parse_args().messages
    dovecot = service("dovecot", Dovecot)
    password = dovecot.add_user(USER)
    database, statistics = postgres_url(), chdb_url()
    schema.migrate(database)
    store = open_statistics(statistics)
    store.migrate()
    for first in range(0, messages, PORTION):
        events = [delivered(n) for n in range(first, min(first + PORTION, messages))]
        store.insert([encode_lines(events)])
        reports = (complaint(e) if n % 10 == 0 else bounce(e) for n, e in enumerate(events))
        dovecot.deliver(USER, *reports)
    store.close()
    began = time.monotonic()
    port, certificate = dovecot.pop3s_port, str(dovecot.certificate)
    child = start(Job(database, statistics, port, USER, password, certificate))
    said, _ = child.communicate()
    seconds = time.monotonic() - began
    _, count, peak_kib = said.splitlines()[-1].split()
    kinds = _told(database)
    assert int(count) == messages, count
    assert kinds == {"late_bounced": messages * 9 // 10, "complained": messages // 10}, kinds
    print(
        f"inbound: messages={messages} seconds={seconds:.1f} per_second={messages / seconds:.0f}"
        f" peak_mib={int(peak_kib) / 1024:.0f} events={dict(kinds)}"
    )


def _told(url: str) -> Counter[str]:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT body FROM ledger_outbox")
        rows = cursor.fetchall()
    connection.close()
    events = [event for (body,) in rows for event in decode_lines(bytes(body))]
    assert len({event.event_id for event in events}) == len(events)
    return Counter(event.kind for event in events)


if __name__ == "__main__":
    main()

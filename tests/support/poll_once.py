"""One process that reads one mailbox until it is empty: what a test kills and a bench measures.

Gives    Job; start (a child that does a job and says `recorded` after each batch)
Takes    as a program: a job as JSON on its standard input
Raises   whatever the poller does
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import resource
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from mailcore.events import Event
from mailcore.policy.model import Mailbox, PolicySnapshot
from mailcore.policy.words import MailboxTls
from mailcore.ports import InboundRecord
from mailio.clock import LedgerClock
from mailio.ledger.inbound import PgInbound
from mailio.mailbox import Pop3Reader
from mailio.stats.traces import open_traces
from tests.support.builders import NODE, policy
from tests.support.reports import RING
from workers.engines.poll_mailbox import Pace, Poller, PollPorts

TOP = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Job:
    """A mailbox, its stores, and how much is read at a time."""

    database_url: str
    clickhouse_url: str
    port: int
    login: str
    password: str
    certificate: str
    sitting: int = 2000
    batch: int = 100


@dataclass
class Announced:
    """Says when a batch is committed, so that a test knows when to kill."""

    inbound: PgInbound
    out: IO[str]

    def record(
        self, mailbox_id: int, records: Sequence[InboundRecord], events: Sequence[Event]
    ) -> int:
        new = self.inbound.record(mailbox_id, records, events)
        print("recorded", file=self.out, flush=True)
        return new

    def __getattr__(self, name: str) -> object:
        return getattr(self.inbound, name)


class _Secret:
    def __init__(self, password: str) -> None:
        self._password = password

    async def open(self, secret_ref: str) -> bytes:
        return self._password.encode()


class _Policy:
    def __init__(self, snapshot: PolicySnapshot) -> None:
        self._snapshot = snapshot

    def current(self) -> PolicySnapshot:
        return self._snapshot


def start(job: Job) -> subprocess.Popen[str]:
    """Start a child that does the job."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.poll_once"],
        cwd=TOP,
        env={"PYTHONPATH": f"{TOP}:{TOP / 'platform'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(dataclasses.asdict(job)))
    child.stdin.close()
    child.stdin = None
    return child


def main() -> None:
    """Do a job; the last line says how many messages and the peak of memory in KiB."""
    logging.basicConfig(level=logging.WARNING)
    job = Job(**json.load(sys.stdin))
    box = Mailbox(
        1, "box", "localhost", job.port, job.login, "", tls=MailboxTls.TLS, poll_interval_s=0.0
    )
    inbound = PgInbound(job.database_url)
    traces = open_traces(job.clickhouse_url, job.database_url)
    poller = Poller(
        PollPorts(
            policy=_Policy(dataclasses.replace(policy(), mailboxes={1: box})),
            vault=_Secret(job.password),
            reader=Pop3Reader(
                confine_to_loopback=True,
                tls=ssl.create_default_context(cafile=job.certificate),
            ),
            inbound=cast(PgInbound, Announced(inbound, sys.stdout)),
            traces=traces,
            clock=LedgerClock(),
            token_ring=RING,
            node=NODE,
            pace=Pace(sitting=job.sitting, batch=job.batch, turn_s=3600.0),
        )
    )
    count = asyncio.run(poller.poll())
    inbound.close()
    traces.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"done {count} {peak}", flush=True)


if __name__ == "__main__":
    main()

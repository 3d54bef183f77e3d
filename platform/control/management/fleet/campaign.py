"""Send a campaign through the API and follow it until every message is accounted for.

Gives    Campaign: send(), follow(), kill(), reckoning(); Progress, what a person is shown meanwhile
Takes    a running Fleet, how many messages
Raises   FleetError when the API does not take the load

What was delivered, refused and delivered twice is counted at the receivers, not in our database;
what no receiver can see (expired, stopped, purged, still queued) is asked of ours.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from control.management.fleet.house import FleetError
from control.management.fleet.killing import Kill, ended_by, kill_delivery, on_the_wire
from control.management.fleet.launch import Fleet, read_token
from control.management.fleet.reckoning import REPORTS, TOLD, Evidence, Offered, Reckoning, reckon
from lab.client import LabClient
from lab.load import Batch, LoadError, LoadPlan, send
from lab.report import summary
from mailio.ledger.figures import LedgerFigures
from mailio.stats import open_statistics

POLL_S = 0.5
PAUSE_S = 0.05
SETTLED_POLLS = 3
# How long a report that lies in the mailbox may take to be counted.
REPORTS_WITHIN_S = 60.0
# A line that is lost in the middle of a TLS handshake ends later; it has no transaction.
ENDINGS_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is, by sums."""

    accepted: int
    delivered: int
    bounced: int
    queued: int
    recorded: int  # recipients our statistics say are finished
    reports: int  # put into our mailboxes by the receivers
    reports_due: int  # still to come
    counted: int  # of these reports, by our statistics

    @property
    def is_done(self) -> bool:
        """Whether nothing is queued and the statistics have it all."""
        return self.queued == 0 and self.recorded >= self.accepted

    @property
    def is_reported(self) -> bool:
        """Whether every report has come and is counted."""
        return self.reports_due == 0 and self.counted >= self.reports


class Campaign:
    """One load through a running fleet."""

    def __init__(self, fleet: Fleet, *, messages: int, label: str) -> None:
        self._fleet = fleet
        self._lab = LabClient(fleet.addresses.lab_control_port)
        self._plan = LoadPlan(count=messages, run=uuid.uuid4().hex[:8], campaign=label)
        self._ledger = LedgerFigures(fleet.environment["DATABASE_URL"])
        self._statistics = open_statistics(fleet.environment["CLICKHOUSE_URL"])
        self._offered: dict[str, Offered] = {}
        self._wire: frozenset[str] | None = None
        # The lab remembers earlier campaigns of the same directory: count from here on.
        self._before = summary(self._lab.counts())

    @property
    def run(self) -> str:
        """What every id in the lab begins with."""
        return self._plan.run

    @property
    def accepted(self) -> int:
        """How many recipients the API took."""
        return len(self._offered)

    def send(self) -> Iterator[int]:
        """Offer all messages; yield how many are accepted so far."""
        token = read_token(self._fleet.token_path)
        url = self._fleet.addresses.api.removesuffix("/api/v2")
        try:
            for batch in send(self._plan, self._fleet.world, url=url, token=token):
                self._note(batch)
                yield self.accepted
        except LoadError as exc:
            raise FleetError(str(exc)) from exc

    def finished(self) -> int:
        """How many recipients the receivers have taken or refused."""
        seen = summary(self._lab.counts())
        return seen.delivered + seen.bounced - self._before.delivered - self._before.bounced

    def progress(self) -> Progress:
        """Count now."""
        counts = self._lab.counts()
        seen, before = summary(counts), self._before
        ours = self._statistics.counts(campaign=self._plan.campaign)
        final = self._statistics.final_counts(campaign=self._plan.campaign)
        reported = seen.late_bounced + seen.complained
        return Progress(
            accepted=self.accepted,
            delivered=seen.delivered - before.delivered,
            bounced=seen.bounced - before.bounced,
            queued=self._queued(),
            recorded=sum(final.values()),
            reports=reported - before.late_bounced - before.complained,
            reports_due=int(counts["reports_due"]),
            counted=sum(ours.get(kind, 0) for kind in REPORTS),
        )

    def follow(
        self,
        *,
        timeout_s: float,
        show: Callable[[Progress], None],
        asked: threading.Event,
        reports_within_s: float = REPORTS_WITHIN_S,
    ) -> Progress:
        """Watch until nothing is queued, the statistics have it all and so every report, time is
        up, or somebody asked to stop."""
        deadline = time.monotonic() + timeout_s
        quiet, is_over = 0, False
        while True:
            found = self.progress()
            show(found)
            quiet = quiet + 1 if found.is_done else 0
            if quiet >= SETTLED_POLLS and not is_over:
                is_over, deadline = True, time.monotonic() + reports_within_s
            if is_over and found.is_done and found.is_reported:
                return found
            if time.monotonic() > deadline or asked.wait(POLL_S):
                return found

    def kill(self, asked: threading.Event) -> Kill | None:
        """Kill a delivery worker that has connections open; None while none has."""
        try:
            killed = kill_delivery(self._fleet.pids(), int(self._fleet.environment["SMTP_PORT"]))
        except OSError as exc:
            raise FleetError(f"no delivery worker can be looked at and killed: {exc}") from exc
        if killed is None:
            return None
        deadline = time.monotonic() + ENDINGS_WITHIN_S
        connections: dict[str, int] = {}
        while len(connections) < len(killed.peers) and time.monotonic() < deadline:
            connections = ended_by(killed, self._lab.endings())
            if asked.wait(PAUSE_S):
                break
        self._wire = on_the_wire(killed, connections.values(), self._facts())
        return killed

    def reckoning(self) -> Reckoning:
        """Return the account of every recipient, from what both sides know now."""
        queued = frozenset(self._ledger.recipients_of_campaign(self._plan.campaign))
        told = self._statistics.recipients(campaign=self._plan.campaign, kinds=TOLD)
        evidence = Evidence(
            offered=self._offered,
            facts=self._facts(),
            reports=[*self._lab.late(), *self._lab.complaints()],
            told=told,
            queued=queued,
            on_the_wire=self._wire,
        )
        return reckon(evidence, isps=[provider.title for provider in self._fleet.world.providers])

    def statistics(self) -> str:
        """Return what our own statistics say of it."""
        ours = self._statistics.final_counts(campaign=self._plan.campaign)
        return " ".join(f"{kind}={count}" for kind, count in sorted(ours.items())) or "nothing"

    def close(self) -> None:
        """Let go of connections."""
        self._statistics.close()
        self._ledger.close()

    def _note(self, batch: Batch) -> None:
        """Remember whom a batch was accepted for."""
        accepted = _accepted(batch.answer)
        for message in batch.messages:
            if message.recipient in accepted:
                isp = self._fleet.world.provider(message.provider).title
                self._offered[message.recipient] = Offered(isp, batch.offered_at)

    def _facts(self) -> list[dict[str, Any]]:
        """Return what the receivers noted of this campaign's recipients."""
        return list(self._lab.facts(recipient_prefix=self._plan.recipient_prefix))

    def _queued(self) -> int:
        """How many of this campaign's recipients are still owed a result."""
        return sum(
            lane.waiting + lane.leased + lane.unknown
            for lane in self._ledger.totals()
            if lane.campaign == self._plan.campaign
        )


def _accepted(answer: dict[str, object]) -> frozenset[str]:
    """Return the accepted recipients of an answer."""
    results = answer.get("results", [answer])
    if not isinstance(results, list):
        raise FleetError(f"the API answered something else: {json.dumps(answer)[:300]}")
    return frozenset(
        str(recipient["recipient"])
        for result in results
        for recipient in result.get("recipients", [])
        if recipient.get("accepted")
    )

"""Send a campaign through the API and follow it until every message is accounted for.

Gives    Campaign: send(), follow(), Tally (what became of it), report()
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

from control.management.fleet.house import FleetError
from control.management.fleet.launch import Fleet, read_token
from lab.client import LabClient
from lab.load import LoadError, LoadPlan, send
from lab.report import summary, table
from mailio.ledger.figures import LedgerFigures
from mailio.stats import open_statistics

POLL_S = 0.5
SETTLED_POLLS = 3


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a campaign. Everything but `accepted` and `duplicated` adds up to it."""

    accepted: int
    delivered: int
    bounced: int
    expired: int
    stopped: int
    purged: int
    queued: int
    duplicated: int

    @property
    def unaccounted(self) -> int:
        """How many of the accepted nobody can point at."""
        known = self.delivered + self.bounced + self.expired + self.stopped + self.purged
        return self.accepted - known - self.queued

    @property
    def is_whole(self) -> bool:
        """Whether every accepted message has come to one end: a fleet that delivers nothing
        accounts for all of it, as queued."""
        return self.queued == 0 and self.unaccounted == 0 and self.duplicated == 0

    @property
    def line(self) -> str:
        """The line a program reads."""
        return (
            f"accepted={self.accepted} delivered={self.delivered} bounced={self.bounced} "
            f"expired={self.expired} stopped={self.stopped} purged={self.purged} "
            f"queued={self.queued} unaccounted={self.unaccounted} duplicated={self.duplicated}"
        )


class Campaign:
    """One load through a running fleet."""

    def __init__(self, fleet: Fleet, *, messages: int, label: str) -> None:
        self._fleet = fleet
        self._lab = LabClient(fleet.addresses.lab_control_port)
        self._plan = LoadPlan(count=messages, run=uuid.uuid4().hex[:8], campaign=label)
        self._ledger = LedgerFigures(fleet.environment["DATABASE_URL"])
        self._statistics = open_statistics(fleet.environment["CLICKHOUSE_URL"])
        self.accepted = 0
        self.offered: dict[str, int] = {}
        # The lab remembers earlier campaigns of the same directory: count from here on.
        self._before = summary(self._lab.counts())

    def send(self) -> Iterator[int]:
        """Offer all messages; yield how many are accepted so far."""
        token = read_token(self._fleet.token_path)
        url = self._fleet.addresses.api.removesuffix("/api/v2")
        try:
            for batch in send(self._plan, self._fleet.world, url=url, token=token):
                for message in batch.messages:
                    self.offered[message.provider] = self.offered.get(message.provider, 0) + 1
                self.accepted += _accepted(batch.answer)
                yield self.accepted
        except LoadError as exc:
            raise FleetError(str(exc)) from exc

    def tally(self) -> Tally:
        """Count now."""
        seen = summary(self._lab.counts())
        ours = self._statistics.final_counts(campaign=self._plan.campaign)
        return Tally(
            accepted=self.accepted,
            delivered=seen.delivered - self._before.delivered,
            bounced=seen.bounced - self._before.bounced,
            expired=ours.get("expired", 0),
            stopped=ours.get("stopped", 0),
            purged=ours.get("purged", 0),
            queued=self._queued(),
            duplicated=seen.duplicated - self._before.duplicated,
        )

    def follow(
        self, *, timeout_s: float, show: Callable[[Tally], None], asked: threading.Event
    ) -> Tally:
        """Watch until nothing is queued and the statistics have it all, time is up, or somebody
        asked to stop."""
        deadline = time.monotonic() + timeout_s
        quiet = 0
        while True:
            tally = self.tally()
            show(tally)
            done = tally.queued == 0 and self._recorded() >= self.accepted
            quiet = quiet + 1 if done else 0
            if quiet >= SETTLED_POLLS or time.monotonic() > deadline or asked.wait(POLL_S):
                return tally

    def _queued(self) -> int:
        """How many of this campaign's recipients are still owed a result."""
        return sum(
            lane.waiting + lane.leased + lane.unknown
            for lane in self._ledger.totals()
            if lane.campaign == self._plan.campaign
        )

    def _recorded(self) -> int:
        """How many recipients the statistics say are finished."""
        return sum(self._statistics.final_counts(campaign=self._plan.campaign).values())

    def report(self) -> str:
        """Return the receivers' table beside what our own statistics say."""
        ours = self._statistics.final_counts(campaign=self._plan.campaign)
        said = " ".join(f"{kind}={count}" for kind, count in sorted(ours.items())) or "nothing"
        return f"{table(self._lab.counts(), offered=self.offered)}\nour statistics: {said}"


def _accepted(answer: dict[str, object]) -> int:
    """Count the accepted recipients of an answer."""
    results = answer.get("results", [answer])
    if not isinstance(results, list):
        raise FleetError(f"the API answered something else: {json.dumps(answer)[:300]}")
    return sum(
        bool(recipient.get("accepted"))
        for result in results
        for recipient in result.get("recipients", [])
    )

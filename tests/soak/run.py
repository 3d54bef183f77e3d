"""Run faults one after the other under load, and account for every message.

Gives    Plan, Soak: run() -> Account; Outcome
Takes    a Ground that is up
Raises   SoakError when the fleet does not come back, or the queue does not drain
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg2

from control.management.fleet.launch import read_token
from control.management.fleet.reckoning import TOLD, Evidence, reckon
from lab.client import LabError
from mailcore.ports import StoreUnavailable
from mailio.ledger.figures import LedgerFigures
from tests.soak.account import Account, account_of
from tests.soak.faults import FAULTS, possible, prepare
from tests.soak.ground import Ground
from tests.soak.offering import Offering
from tests.soak.plan import chosen, draw

# How long all may take to be as before, once the last fault is over.
BACK_WITHIN_S = 180.0
# A row whose outcome is unknown is sent again late; a source that was refused rests for minutes.
DRAINED_WITHIN_S = 900.0
SETTLED_WITHIN_S = 120.0
LOOK_S = 0.5


class SoakError(Exception):
    """The product did not come back; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`faults` as FAULTS names them; the run ends after `count` faults or `minutes`, whichever
    comes first."""

    seed: int
    faults: str = ""
    minutes: float = 10.0
    count: int = 1_000_000
    per_s: float = 30.0
    pace: float = 1.0


class Soak:
    """One run."""

    def __init__(self, ground: Ground, plan: Plan, *, say: Callable[[str], None]) -> None:
        self._ground = ground
        self._plan = plan
        self._say = say
        self._began = time.monotonic()
        running = ground.running
        self._run_name = uuid.uuid4().hex[:8]
        self._campaign = f"soak-{self._run_name}"
        self._offering = Offering(
            running.fleet.addresses.api,
            read_token(running.fleet.token_path),
            running.fleet.world,
            run=self._run_name,
            campaign=self._campaign,
            per_s=plan.per_s,
        )
        self._ledger = LedgerFigures(ground.urls["DATABASE_URL"])

    def run(self, asked: threading.Event) -> Account:
        """Strike until the plan's end or until somebody asks; wait until all is well; count."""
        prepare(self._ground)
        self._offering.start()
        try:
            struck = self._strike(asked)
        finally:
            self._offering.stop()
        self._say(self._stamp(f"{struck} faults; waiting until all is well"))
        self._wait("processes are up", BACK_WITHIN_S, self._is_up, lambda: self._ground.down())
        if not self._offering.settle(SETTLED_WITHIN_S):
            raise SoakError("the API did not answer after the last fault")
        self._wait("the queue is empty", DRAINED_WITHIN_S, self._is_drained, self._left)
        self._wait("events are applied", SETTLED_WITHIN_S, self._is_applied, lambda: "")
        return self._account(struck)

    def _strike(self, asked: threading.Event) -> int:
        names = chosen(tuple(possible(self._ground)), self._plan.faults)
        weights = {name: FAULTS[name].weight for name in names}
        deadline = self._began + self._plan.minutes * 60
        struck = 0
        for drawn in draw(weights, self._plan.seed, pace=self._plan.pace):
            if struck >= self._plan.count or time.monotonic() > deadline:
                break
            if asked.wait(drawn.rest_s):
                break
            began = time.monotonic()
            detail = FAULTS[drawn.name].strike(self._ground, drawn)
            struck += 1
            took = time.monotonic() - began
            told = self._offering.told
            self._say(
                self._stamp(
                    f"{drawn.number:>4} {drawn.name:<20} {took:4.1f} s  {detail}"
                    f"  [accepted {len(told.accepted)}]"
                )
            )
        return struck

    def _stamp(self, text: str) -> str:
        return f"{time.monotonic() - self._began:7.1f} s  {text}"

    # ── afterwards ────────────────────────────────────────────────────────────────────────────

    def _wait(
        self, what: str, within_s: float, check: Callable[[], bool], left: Callable[[], object]
    ) -> None:
        deadline = time.monotonic() + within_s
        said: object = None
        while not self._tried(check):
            if time.monotonic() > deadline:
                raise SoakError(f"not within {within_s:g} s: {what}; {left()}")
            if (now := self._tried(left)) != said:
                said = now
                self._say(self._stamp(f"not yet: {what} ({now})"))
            time.sleep(LOOK_S)  # noqa: TID251 - between two looks at other processes

    @staticmethod
    def _tried(look: Callable[[], object]) -> object:
        try:
            return look()
        except (psycopg2.Error, StoreUnavailable, LabError, OSError, ValueError):
            return None

    def _is_up(self) -> bool:
        return not self._ground.down()

    def _is_drained(self) -> bool:
        return self._queued() == 0

    def _queued(self) -> int:
        lanes = [one for one in self._ledger.totals() if one.campaign == self._campaign]
        return sum(lane.waiting + lane.leased + lane.unknown for lane in lanes)

    def _left(self) -> object:
        lanes = [one for one in self._ledger.totals() if one.campaign == self._campaign]
        sums = (
            ("waiting", sum(one.waiting for one in lanes)),
            ("leased", sum(one.leased for one in lanes)),
            ("unknown", sum(one.unknown for one in lanes)),
        )
        return ", ".join(f"{what} {count}" for what, count in sums)

    def _is_applied(self) -> bool:
        running = self._ground.running
        return all(running.applied(consumer) for consumer in ("statistics", "stop_list"))

    def _account(self, struck: int) -> Account:
        running = self._ground.running
        facts = list(running.lab.facts(recipient_prefix=self._offering.recipient_prefix))
        hits = self._ground.hits(facts)
        lost = {
            str(one["recipient"])
            for one in facts
            if one["fate"] == "accepted" and one["reply"] is None
        }
        unsure = frozenset(lost.union(*(hit.recipients for hit in hits)))
        evidence = Evidence(
            offered=self._offering.told.accepted,
            facts=facts,
            reports=[*running.lab.late(), *running.lab.complaints()],
            told=running.statistics.recipients(campaign=self._campaign, kinds=TOLD),
            queued=frozenset(self._ledger.recipients_of_campaign(self._campaign)),
            on_the_wire=unsure,
        )
        isps = [provider.title for provider in running.fleet.world.providers]
        return account_of(
            struck,
            reckon(evidence, isps=isps),
            facts=facts,
            hits=hits,
            unknown=frozenset(
                recipient
                for _, recipient, _ in running.statistics.recipients(
                    campaign=self._campaign, kinds=("unknown",)
                )
            ),
            refused=self._offering.told.refused,
        )

    @property
    def statuses(self) -> Sequence[tuple[str, int]]:
        """What the API answered, and how often."""
        return self._offering.told.statuses.most_common()

    def close(self) -> None:
        """Let go of connections."""
        self._ledger.close()

"""A campaign that is counted to the last message, and the kill of a worker in its middle.

Gives    Demo: run() -> Verdict
Takes    a running Fleet, how many messages, whether to kill; where progress is shown
Raises   FleetError when the API does not take the load, or all was delivered before the kill
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from control.management.fleet.campaign import PAUSE_S, Campaign, Progress
from control.management.fleet.house import FleetError
from control.management.fleet.killing import Kill
from control.management.fleet.launch import Fleet
from control.management.fleet.reckoning import Reckoning

BASE_S = 120.0
PER_MESSAGE_S = 0.05
# A worker is killed when this part of the messages has arrived.
MIDWAY = 1 / 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a demonstration came to."""

    reckoning: Reckoning
    statistics: str
    killed: Kill | None
    faults: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether all is as it must be."""
        return not self.faults

    @property
    def line(self) -> str:
        """The last line: figures, and what is asked of them."""
        return f"demo: {self.reckoning.line} ({self.reckoning.demand})"


class Demo:
    """One campaign through a running fleet, from the first message to the last report."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        messages: int,
        with_kill: bool,
        say: Callable[[str], None],
        show: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._messages = messages
        self._with_kill = with_kill
        self._say = say
        self._show = show
        self._killed: Kill | None = None
        self._timeout_s = BASE_S + messages * PER_MESSAGE_S
        self.campaign = Campaign(fleet, messages=messages, label=f"demo-{int(time.time())}")

    def run(self, asked: threading.Event) -> Verdict:
        """Send, kill if that is wanted, follow to the end, count."""
        try:
            self._send(asked)
            self._kill_midway(asked)
            self.campaign.follow(
                timeout_s=self._timeout_s, show=lambda found: self._show(words(found)), asked=asked
            )
            return self._verdict()
        finally:
            self.campaign.close()

    def _send(self, asked: threading.Event) -> None:
        for accepted in self.campaign.send():
            self._show(f"accepted {accepted} of {self._messages}")
            if asked.is_set():
                return
            self._kill_if_midway(asked)

    def _kill_midway(self, asked: threading.Event) -> None:
        """Wait for the middle, if it has not come while messages were offered."""
        deadline = time.monotonic() + self._timeout_s
        while self._with_kill and self._killed is None and not asked.wait(PAUSE_S):
            if time.monotonic() > deadline:
                return  # who delivers so little is not worth a kill; the account will say it
            if self.campaign.finished() >= self.campaign.accepted:
                raise FleetError("all was delivered before a worker could be killed: send more")
            self._kill_if_midway(asked)

    def _kill_if_midway(self, asked: threading.Event) -> None:
        if not self._with_kill or self._killed is not None:
            return
        if self.campaign.finished() < self._messages * MIDWAY:
            return
        self._killed = killed = self.campaign.kill(asked)
        if killed is not None:
            self._say(
                f"killed {killed.name} (process {killed.pid}), which had {len(killed.peers)}"
                " connections to receivers"
            )

    def _verdict(self) -> Verdict:
        found = self.campaign.reckoning()
        faults = found.faults
        if refused := self._messages - found.total.accepted:
            faults.append(f"{refused} of {self._messages} messages were not accepted")
        if self._with_kill and self._killed is None:
            faults.append("no worker was killed: too little was delivered for that")
        elif self._killed is not None and not self._runs_again(self._killed):
            faults.append(f"{self._killed.name} was killed and does not run again: see its log")
        return Verdict(found, self.campaign.statistics(), self._killed, tuple(faults))

    def _runs_again(self, killed: Kill) -> bool:
        return self._fleet.pids().get(killed.name, killed.pid) != killed.pid


def words(found: Progress) -> str:
    """Return a line for who watches."""
    return (
        f"accepted {found.accepted}, delivered {found.delivered}, bounced {found.bounced}, "
        f"queued {found.queued}; reports {found.counted}/{found.reports + found.reports_due}"
    )

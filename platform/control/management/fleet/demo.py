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
    is_good: bool

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
        self.campaign = Campaign(fleet, messages=messages, label=f"demo-{int(time.time())}")

    def run(self, asked: threading.Event) -> Verdict:
        """Send, kill if that is wanted, follow to the end, count."""
        try:
            self._send(asked)
            self._kill_midway(asked)
            timeout_s = BASE_S + self._messages * PER_MESSAGE_S
            self.campaign.follow(
                timeout_s=timeout_s, show=lambda found: self._show(words(found)), asked=asked
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
        while self._with_kill and self._killed is None and not asked.wait(PAUSE_S):
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
        is_back = self._killed is None or self._runs_again(self._killed)
        is_good = found.is_good and found.total.accepted == self._messages and is_back
        return Verdict(found, self.campaign.statistics(), self._killed, is_good)

    def _runs_again(self, killed: Kill) -> bool:
        is_back = self._fleet.pids().get(killed.name, killed.pid) != killed.pid
        if not is_back:
            self._say(f"{killed.name} was killed and does not run again: see its log")
        return is_back


def words(found: Progress) -> str:
    """Return a line for who watches."""
    return (
        f"accepted {found.accepted}, delivered {found.delivered}, bounced {found.bounced}, "
        f"queued {found.queued}; reports: {found.counted} counted of {found.reports}, "
        f"{found.reports_due} to come"
    )

"""What the sessions of one MX host share: the provider, its memory, and where facts go.

Gives    House: play(), answer_at(), deferral(), is_blocked(), takes_from(), hosts(),
         ehlo_lines(); GreylistMemory, ThrottleMemory
Takes    a provider, a tally, the seed; the clock of the loop
Raises   nothing
Follows  RFC 6647 (greylisting by network, reverse-path and recipient)
"""

import ssl
import time
from typing import Protocol

from lab.manner import Extension, Manner, Throttle, TlsManner, Wait, draw
from lab.script import Script, ScriptCursor, Stage, Step
from lab.tally import Tally
from lab.world import MxHost, Provider


class OpenSession(Protocol):
    """What a house asks of its sessions."""

    def abort(self) -> None:
        """Drop the line."""


class GreylistMemory:
    """First sights of triplets; shared by the MX hosts of a provider, as real ones share it.

    A full mailbox is remembered here too, by the recipient alone.
    """

    def __init__(self) -> None:
        self._first_seen: dict[tuple[str, str, str], float] = {}

    def wait_s(self, wait: Wait, triplet: tuple[str, str, str], *, seed: int, now: float) -> float:
        """Return how long this triplet has still to wait; 0 lets it pass."""
        if wait.share < 1 and draw(seed, wait.name, triplet[2]) >= wait.share:
            return 0.0
        first = self._first_seen.setdefault(triplet, now)
        return max(0.0, first + wait.after_s - now)

    def clear(self) -> None:
        """Forget all."""
        self._first_seen.clear()


class ThrottleMemory:
    """What each client address may still send; shared like the memory of greylisting."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # allowance, and when it was so
        self._blocked_until: dict[str, float] = {}

    def is_blocked(self, address: str, *, now: float) -> bool:
        """Whether a client is under penalty."""
        return now < self._blocked_until.get(address, 0.0)

    def takes(self, throttle: Throttle, address: str, *, now: float) -> bool:
        """Whether one message more is taken; the first that is not starts the penalty."""
        if self.is_blocked(address, now=now):
            return False
        left, at = self._left.get(address, (float(throttle.burst), now))
        left = min(float(throttle.burst), left + (now - at) * throttle.messages_per_s)
        if left < 1:
            self._left[address] = (left, now)
            self._blocked_until[address] = now + throttle.penalty_s
            return False
        self._left[address] = (left - 1, now)
        return True

    def clear(self) -> None:
        """Forget all."""
        self._left.clear()
        self._blocked_until.clear()


class House:
    """One MX host of a provider, as its sessions see it."""

    def __init__(
        self,
        provider: Provider,
        host: MxHost,
        tally: Tally,
        *,
        seed: int,
        greylist: GreylistMemory,
        throttle: ThrottleMemory,
        tls: ssl.SSLContext | None,
        hosts_everything: bool = False,
    ) -> None:
        self.provider = provider
        self.host = host
        self.tally = tally
        self.tls = tls
        self.manner: Manner = provider.manner
        self.script = Script()
        self.sessions: set[OpenSession] = set()
        self._seed = seed
        self._greylist = greylist
        self._throttle = throttle
        self._domains = None if hosts_everything else {one.name for one in provider.domains}
        self._cursor = ScriptCursor(self.script)

    def play(self, script: Script) -> None:
        """Follow a script from now on, at connections to come and those that are open."""
        self.script = script
        self._cursor = ScriptCursor(script)

    def new_cursor(self) -> ScriptCursor:
        """Return the script as a new connection meets it."""
        return ScriptCursor(self.script) if self.script.is_per_connection else self._cursor

    def is_played(self) -> bool:
        """Whether every step of a script that is consumed once has been taken."""
        return self._cursor.is_played

    @property
    def open_connections(self) -> int:
        """How many sessions there are now."""
        return len(self.sessions)

    def answer_at(
        self, stage: Stage, *, key: str, cursor: ScriptCursor, connection: int, transaction: int
    ) -> Step | None:
        """Return what script or rules make of this moment, None for the plain answer."""
        step = cursor.take(stage)
        if step is not None or not self.manner.rules:
            return step
        return self.manner.step_at(
            stage, seed=self._seed, key=key, connection=connection, transaction=transaction
        )

    def deferral(self, *, network: str, reverse_path: str, recipient: str) -> str | None:
        """Return the reply to a recipient who has still to wait, None when he has not."""
        manner = self.manner
        if manner.greylist is not None:
            wait_s = self._wait_s(manner.greylist, (network, reverse_path, recipient))
            if wait_s > 0:
                return f"451 4.7.1 Greylisted, come back in {int(wait_s) + 1} seconds"
        if manner.full_mailbox is not None and (
            self._wait_s(manner.full_mailbox, ("", "", recipient)) > 0
        ):
            return "452 4.2.2 Mailbox is full"
        return None

    def _wait_s(self, wait: Wait, triplet: tuple[str, str, str]) -> float:
        return self._greylist.wait_s(wait, triplet, seed=self._seed, now=time.monotonic())

    def is_blocked(self, address: str) -> bool:
        """Whether this client went too fast a moment ago."""
        if self.manner.throttle is None:
            return False
        return self._throttle.is_blocked(address, now=time.monotonic())

    def takes_from(self, address: str, throttle: Throttle) -> bool:
        """Whether this client may send one message more."""
        return self._throttle.takes(throttle, address, now=time.monotonic())

    def hosts(self, domain: str) -> bool:
        """Whether mail for the domain is taken here."""
        return self._domains is None or domain in self._domains

    def offers_tls(self) -> bool:
        """Whether STARTTLS may be said."""
        return self.tls is not None and self.manner.tls is not TlsManner.NONE

    def ehlo_lines(self, *, is_tls: bool) -> list[str]:
        """Return the lines of the EHLO reply after the first."""
        lines: list[str] = []
        for extension in Extension:
            if extension in self.manner.extensions:
                is_size = extension is Extension.SIZE
                lines.append(f"SIZE {self.manner.max_size_bytes}" if is_size else extension.value)
        if self.offers_tls() and not is_tls:
            lines.append("STARTTLS")
        return lines

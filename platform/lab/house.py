"""What the sessions of one MX host share: the provider, its memory, and where facts go.

Gives    House: play(), answer_at(), greylist_wait_s(), hosts(), ehlo_lines(); GreylistMemory
Takes    a provider, a tally, the seed; the clock of the loop
Raises   nothing
Follows  RFC 6647 (greylisting by network, reverse-path and recipient)
"""

import ssl
import time
from typing import Protocol

from lab.manner import Extension, Greylist, Manner, TlsManner, draw
from lab.script import Script, ScriptCursor, Stage, Step
from lab.tally import Tally
from lab.world import MxHost, Provider


class OpenSession(Protocol):
    """What a house asks of its sessions."""

    def abort(self) -> None:
        """Drop the line."""


class GreylistMemory:
    """First sights of triplets; shared by the MX hosts of a provider, as real ones share it."""

    def __init__(self) -> None:
        self._first_seen: dict[tuple[str, str, str], float] = {}

    def wait_s(
        self, greylist: Greylist, triplet: tuple[str, str, str], *, seed: int, now: float
    ) -> float:
        """Return how long this triplet has still to wait; 0 lets it pass."""
        if greylist.share < 1 and draw(seed, "greylist", triplet[2]) >= greylist.share:
            return 0.0
        first = self._first_seen.setdefault(triplet, now)
        return max(0.0, first + greylist.after_s - now)

    def clear(self) -> None:
        """Forget all."""
        self._first_seen.clear()


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

    def answer_at(self, stage: Stage, *, key: str, cursor: ScriptCursor) -> Step | None:
        """Return what script or rules make of this moment, None for the plain answer."""
        return cursor.take(stage) or self.manner.step_at(stage, seed=self._seed, key=key)

    def greylist_wait_s(self, *, network: str, reverse_path: str, recipient: str) -> float:
        """Return how long this recipient has still to be deferred; 0 when not at all."""
        if self.manner.greylist is None:
            return 0.0
        triplet = (network, reverse_path, recipient)
        return self._greylist.wait_s(
            self.manner.greylist, triplet, seed=self._seed, now=time.monotonic()
        )

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

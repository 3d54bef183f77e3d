"""Limits shared by the fleet, bells, and the way to secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.outcome import MailClass
from mailcore.shaping.strategy import Grant, Rate


class Shaper(Protocol):
    """Slots, pacing and bell counters, shared by the fleet. Raises StoreUnavailable."""

    async def open_slots(
        self, path: Path, *, wanted: int, limit: int, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[str]:
        """Take up to `wanted` connection slots of a path that has `limit` (0: unlimited).

        One slot of each limit of two or more is kept for priority mail.
        """
        ...

    async def renew_slots(self, slots: Sequence[tuple[Path, str]]) -> Sequence[Path]:
        """Keep slots that are held; re-registers them if the store was emptied.

        Return those paths for which somebody was refused a slot lately: idle connections of
        these should be closed.
        """
        ...

    async def close_slots(self, slots: Sequence[tuple[Path, str]]) -> None:
        """Give slots back."""
        ...

    async def grant(
        self, path: Path, *, want: int, rate: Rate, mail_class: MailClass = MailClass.MAIN
    ) -> Grant:
        """Take allowance for up to `want` messages, as a schedule 1 % under the rate.

        A tenth of each rate is kept for priority mail.
        """
        ...

    async def return_grant(self, path: Path, *, unused: int, rate: Rate, ticket: str = "") -> None:
        """Give allowance back that was not used, of the grant that `ticket` names.

        Only the last grant of a path can be undone: what others were granted after it stands.
        """
        ...

    async def take_bells(
        self, paths: Sequence[tuple[Path, int]], *, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[Path]:
        """Return those paths with fewer outstanding bells than wanted, and count one more."""
        ...

    async def keep_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        """Drains of these paths are alive: their bells go on counting."""
        ...

    async def drop_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        """A drain of these paths is about to make its last claim."""
        ...

    async def cool(self, path: Path, *, seconds: float, reason: str) -> None:
        """Let a path rest (source id 0: the whole site); the ringer passes it over meanwhile."""
        ...

    async def cooling(self, paths: Sequence[Path]) -> Sequence[Path]:
        """Return those of these paths that rest now, by themselves or with their site."""
        ...


class Bells(Protocol):
    """Rings: publishes and waits for the broker's confirm. Raises StoreUnavailable."""

    async def drain(self, bell: DrainBell) -> None:
        """Ring for paths of a node."""
        ...

    async def route(self, bell: RouteBell) -> None:
        """Ring for unrouted lanes."""
        ...

    async def apply(self, bell: ApplyBell) -> None:
        """Ring for a consumer of the outbox."""
        ...

    async def upkeep(self, task: str, bell: UpkeepBell) -> None:
        """Ring for a chore."""
        ...


class Vault(Protocol):
    """The workers' only way to a secret. Never log or return what it gives."""

    async def open(self, secret_ref: str) -> bytes:
        """Return the secret in clear. Raises StoreUnavailable, or LookupError when gone."""
        ...

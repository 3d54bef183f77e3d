"""Slots, grants and bell counters in Redis: what the fleet shares to keep to the limits.

Gives    RedisShaper, the port mailcore.ports.Shaper, and `mark_born` for the installer
Takes    a Redis URL (Redis, Valkey, Kvrocks); all time is the server's
Raises   StoreUnavailable("redis", reason)
Follows  design.md section 4: slots from connect to close, schedules instead of buckets, and one
         slot lifetime of silence when the store is new or empty

One instance serves one event loop. Calls made in the same turn of the loop travel together, so
that asking for a hundred paths is one round trip.

A store that lost its memory is known by a missing mark. Nothing is granted then for one slot
lifetime, while holders register what they hold. Only who has just created the store may skip
that pause, with `mark_born`: nobody can hold a slot yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from mailcore.bells import Path
from mailcore.outcome import MailClass
from mailcore.ports import Grant, Rate, StoreUnavailable
from mailcore.shaping.strategy import class_limit, streams
from mailio.redis_faults import REDIS_FAULTS

SLOT_LIFETIME_S = 30.0
RENEW_EVERY_S = 10.0
GRANT_HORIZON_S = 5.0
# A live drain keeps its bells; those of a dead one are rung for again after this.
BELL_LIFETIME_S = 6.0
ANSWER_TIMEOUT_S = 3.0
CONNECTIONS = 16

_CLASS_MARK = {MailClass.PRIORITY: "p", MailClass.MAIN: "m"}


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script: its text and the digest it is called by."""

    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Self:
        """Read a script that lies beside this module, behind what all share."""
        folder = resources.files("mailio") / "scripts"
        parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name)]
        text = "\n".join(parts)
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True)
class _Call:
    script: Script
    keys: Sequence[str]
    args: Sequence[str | int]
    answer: asyncio.Future[Any]


class RedisShaper:
    """Slots, pacing and bell counters, shared by the fleet."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "pf",
        slot_lifetime_s: float = SLOT_LIFETIME_S,
        grant_horizon_s: float = GRANT_HORIZON_S,
        bell_lifetime_s: float = BELL_LIFETIME_S,
    ) -> None:
        self._client = Redis.from_url(
            url,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            max_connections=CONNECTIONS,
            retry=Retry(NoBackoff(), 1),
        )
        self._prefix = prefix
        self._lifetime_ms = round(slot_lifetime_s * 1000)
        self._horizon_us = round(grant_horizon_s * 1_000_000)
        self._bell_ms = round(bell_lifetime_s * 1000)
        self._holder = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._pending: list[_Call] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._open = Script.load("open_slots")
        self._renew = Script.load("renew_slots")
        self._close = Script.load("close_slots")
        self._grant = Script.load("grant")
        self._return = Script.load("return_grant")
        self._take = Script.load("take_bells")
        self._drop = Script.load("drop_bells")
        self._keep = Script.load("keep_bells")
        self._cool = Script.load("cool")

    async def close(self) -> None:
        """Wait for what is under way and close the connections. Slots stay until given back."""
        if self._sending:
            await asyncio.wait(set(self._sending))
        await self._client.aclose()

    async def mark_born(self) -> bool:
        """Say that this store was just created, so that nobody can hold a slot of it.

        For the installer alone. Return False, and change nothing, where the store is known.
        """
        try:
            return bool(await self._client.set(self._mark, "0", nx=True))
        except REDIS_FAULTS as exc:
            raise StoreUnavailable("redis", _reason(exc)) from exc

    # ── slots ─────────────────────────────────────────────────────────────────────────────────

    async def open_slots(
        self, path: Path, *, wanted: int, limit: int, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[str]:
        """Take up to `wanted` connection slots of a path that has `limit` (0: unlimited)."""
        if wanted <= 0:
            return ()
        mark = _CLASS_MARK[mail_class]
        other = _CLASS_MARK[MailClass(1 - mail_class)]
        slots = [f"{mark}:{self._holder}:{next(self._numbers)}" for _ in range(wanted)]
        taken = await self._call(
            self._open,
            (
                self._mark,
                self._slots_key(path, mark),
                self._slots_key(path, other),
                self._key("wanted", path),
            ),
            (self._lifetime_ms, max(0, limit), class_limit(limit, mail_class), *slots),
        )
        return slots[: int(taken)]

    async def renew_slots(self, slots: Sequence[tuple[Path, str]]) -> Sequence[Path]:
        """Keep slots that are held; re-registers them if the store was emptied.

        Return those paths for which somebody was refused a slot lately.
        """
        groups = _by_path(slots)
        answers = await asyncio.gather(
            *(
                self._call(
                    self._renew,
                    (self._mark, self._slots_key(path, mark), self._key("wanted", path)),
                    (self._lifetime_ms, *held),
                )
                for (path, mark), held in groups.items()
            )
        )
        wanted = {path for (path, _), is_wanted in zip(groups, answers, strict=True) if is_wanted}
        return sorted(wanted)

    async def close_slots(self, slots: Sequence[tuple[Path, str]]) -> None:
        """Give slots back."""
        await asyncio.gather(
            *(
                self._call(self._close, (self._slots_key(path, mark),), held)
                for (path, mark), held in _by_path(slots).items()
            )
        )

    # ── rates ─────────────────────────────────────────────────────────────────────────────────

    async def grant(
        self, path: Path, *, want: int, rate: Rate, mail_class: MailClass = MailClass.MAIN
    ) -> Grant:
        """Take allowance for up to `want` messages, as a schedule 1 % under the rate."""
        usable = streams(rate, mail_class)
        if want <= 0 or not usable:
            return Grant(max(0, want))
        count, first_us, number, ends = await self._call(
            self._grant,
            (self._mark, *(self._rate_key(path, stream.name) for stream in usable)),
            (
                self._lifetime_ms,
                want,
                self._horizon_us,
                *(f"{stream.interval_s * 1_000_000:.3f}" for stream in usable),
            ),
        )
        first_s = int(first_us) / 1_000_000
        if not count:
            return Grant(0, first_s)
        stream = usable[int(number) - 1]
        ticket = f"{stream.name}:{ends.decode()}:{stream.interval_s!r}:{int(count)}"
        return Grant(int(count), first_s, stream.interval_s, ticket)

    async def return_grant(self, path: Path, *, unused: int, rate: Rate, ticket: str = "") -> None:
        """Give allowance back that was not used, of the grant that `ticket` names."""
        if unused <= 0 or rate.is_unlimited or not ticket:
            return
        stream, ends, interval_s, count = ticket.split(":")
        # What is left of grants before this one lies before what others were granted in between.
        back_us = f"{min(unused, int(count)) * float(interval_s) * 1_000_000:.3f}"
        await self._call(self._return, (self._rate_key(path, stream),), (ends, back_us))

    # ── bells ─────────────────────────────────────────────────────────────────────────────────

    async def take_bells(
        self, paths: Sequence[tuple[Path, int]], *, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[Path]:
        """Return those paths with fewer outstanding bells than wanted, and count one more."""
        if not paths:
            return ()
        keys = [self._bell_key(path, mail_class) for path, _ in paths]
        wanted = [number for _, number in paths]
        taken = await self._call(self._take, keys, (self._bell_ms, *wanted))
        return [paths[int(number) - 1][0] for number in taken]

    async def keep_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        """Drains of these paths are alive: their bells go on counting."""
        if paths:
            keys = [self._bell_key(path, mail_class) for path in paths]
            await self._call(self._keep, keys, (self._bell_ms,))

    async def drop_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        """A drain of these paths is about to make its last claim."""
        if paths:
            await self._call(self._drop, [self._bell_key(path, mail_class) for path in paths], ())

    # ── rests ─────────────────────────────────────────────────────────────────────────────────

    async def cool(self, path: Path, *, seconds: float, reason: str) -> None:
        """Let a path rest (source id 0: the whole site); the ringer passes it over meanwhile."""
        rest_ms = round(seconds * 1000)
        if rest_ms > 0:
            await self._call(self._cool, (self._key("rest", path),), (rest_ms, reason[:200]))

    async def cooling(self, paths: Sequence[Path]) -> Sequence[Path]:
        """Return those of these paths that rest now, by themselves or with their site."""
        if not paths:
            return ()
        sites = sorted({path.site for path in paths})
        asked = [*paths, *(Path(0, site) for site in sites)]
        try:
            found = await self._client.mget([self._key("rest", path) for path in asked])
        except REDIS_FAULTS as exc:
            raise StoreUnavailable("redis", _reason(exc)) from exc
        resting = {path for path, rest in zip(asked, found, strict=True) if rest is not None}
        return [path for path in paths if path in resting or Path(0, path.site) in resting]

    # ── the wire ──────────────────────────────────────────────────────────────────────────────

    @property
    def _mark(self) -> str:
        return f"{self._prefix}:opens"

    def _key(self, kind: str, path: Path) -> str:
        return f"{self._prefix}:{kind}:{path.key}"

    def _slots_key(self, path: Path, mark: str) -> str:
        return f"{self._prefix}:slots:{mark}:{path.key}"

    def _rate_key(self, path: Path, stream: str) -> str:
        return f"{self._prefix}:rate:{stream}:{path.key}"

    def _bell_key(self, path: Path, mail_class: MailClass) -> str:
        return f"{self._prefix}:bells:{_CLASS_MARK[mail_class]}:{path.key}"

    async def _call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Run a script together with all that is asked in this turn of the loop."""
        loop = asyncio.get_running_loop()
        call = _Call(script, keys, args, loop.create_future())
        if not self._pending:
            loop.call_soon(self._send_pending)
        self._pending.append(call)
        return await call.answer

    def _send_pending(self) -> None:
        calls, self._pending = self._pending, []
        task = asyncio.get_running_loop().create_task(self._send(calls))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, calls: Sequence[_Call]) -> None:
        try:
            answers = await self._run(calls)
            unknown = [i for i, each in enumerate(answers) if isinstance(each, NoScriptError)]
            if unknown:
                again = [calls[i] for i in unknown]
                await self._load({call.script.sha: call.script for call in again}.values())
                for i, answer in zip(unknown, await self._run(again), strict=True):
                    answers[i] = answer
        except REDIS_FAULTS as exc:
            answers = [exc] * len(calls)
        except asyncio.CancelledError:
            for call in calls:
                call.answer.cancel()
            raise
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, BaseException):
                call.answer.set_exception(StoreUnavailable("redis", _reason(answer)))
            else:
                call.answer.set_result(answer)

    async def _run(self, calls: Sequence[_Call]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
            return list(await pipe.execute(raise_on_error=False))

    async def _load(self, scripts: Iterable[Script]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for script in scripts:
                pipe.script_load(script.text)
            await pipe.execute()


def _by_path(slots: Iterable[tuple[Path, str]]) -> dict[tuple[Path, str], list[str]]:
    groups: dict[tuple[Path, str], list[str]] = {}
    for path, slot in slots:
        groups.setdefault((path, slot[0]), []).append(slot)
    return groups


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__

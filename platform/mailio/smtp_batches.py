"""Letters of all sessions, gathered on the loop and taken in batches on one thread.

Gives    Batches: offer (a letter, and who wants to hear), close
Takes    a blocking function that takes a batch
Raises   nothing: a batch that fails is told 451
Follows  design.md section 4: one hop per batch, one commit in flight
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mailcore.reception import Letter
from mailcore.reply import SmtpReply

log = logging.getLogger(__name__)
_MOST_LETTERS = 1000
_MOST_BYTES = 32 * 2**20
_FAILED = SmtpReply.local(451, "4.3.0", "the message cannot be stored now, try again later")

TakeBatch = Callable[[Sequence[tuple[Letter, str]]], Sequence[SmtpReply]]


class _Waiting(NamedTuple):
    letter: Letter
    client: str
    tell: Callable[[SmtpReply], None]


class Batches:
    """While one batch is committed the next one gathers. For one loop.

    `linger_s`: after a batch with company the next waits so long for as many, which fills it
    better than the time costs; a lone client never waits.
    """

    def __init__(self, take: TakeBatch, *, linger_s: float = 0.0015) -> None:
        self._take = take
        self._linger_s = linger_s
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="smtpd-intake")
        self._pump: asyncio.Task[None] | None = None
        self._last_count = 0

    def offer(self, letter: Letter, client: str, tell: Callable[[SmtpReply], None]) -> None:
        """Take a letter; `tell` is called on the loop once its fate is known."""
        self._waiting.append(_Waiting(letter, client, tell))
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Finish what was offered and end the thread."""
        if self._pump is not None:
            await self._pump
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if self._last_count > 1 and len(self._waiting) < self._last_count:
                await asyncio.sleep(self._linger_s)
            batch = self._cut()
            letters = [(one.letter, one.client) for one in batch]
            try:
                replies = await loop.run_in_executor(self._thread, self._take, letters)
                if len(replies) != len(batch):
                    raise ValueError("a reply is wanted for each letter")
            except Exception:
                # The plane's edge: sessions must get an answer whatever broke.
                log.exception("a batch of letters failed", extra={"letters": len(batch)})
                replies = [_FAILED] * len(batch)
            for one, reply in zip(batch, replies, strict=True):
                try:
                    one.tell(reply)
                except Exception:
                    # One session that breaks must not leave the others without their answer.
                    log.exception("a session broke at its answer")
        self._pump = None
        self._last_count = 0

    def _cut(self) -> list[_Waiting]:
        size = count = 0
        for one in self._waiting:
            size += len(one.letter.content)
            if count and (size > _MOST_BYTES or count >= _MOST_LETTERS):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._last_count = count
        return batch

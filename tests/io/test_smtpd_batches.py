"""Letters gather while a batch is taken, and each sender hears of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from mailcore.address import ReversePath
from mailcore.reception import Identity, Letter
from mailcore.reply import SmtpReply
from mailio.smtp_batches import Batches


def letter(name: str, size: int = 1) -> Letter:
    return Letter(Identity(1), ReversePath("", ""), (), b"x" * size, ehlo=name)


class Taker:
    """Takes batches when a test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.gate = threading.Semaphore(0)
        self.fails = False

    def __call__(self, letters: Sequence[tuple[Letter, str]]) -> list[SmtpReply]:
        self.threads.add(threading.current_thread().name)
        self.batches.append([one.ehlo for one, _ in letters])
        assert self.gate.acquire(timeout=60)
        if self.fails:
            raise RuntimeError("broken")
        return [SmtpReply.local(250, "2.0.0", one.ehlo) for one, _ in letters]


async def taken(taker: Taker, count: int) -> None:
    """Wait until so many batches were begun."""
    async with asyncio.timeout(10):
        while len(taker.batches) < count:
            await asyncio.sleep(0.001)


async def test_what_comes_during_a_commit_is_one_batch_on_one_thread() -> None:
    taker = Taker()
    batches = Batches(taker)
    told: list[str] = []

    def tell(reply: SmtpReply) -> None:
        told.append(reply.text)

    batches.offer(letter("first"), "192.0.2.1", tell)
    await taken(taker, 1)
    for number in range(50):
        batches.offer(letter(str(number)), "192.0.2.1", tell)
    assert told == []
    taker.gate.release()
    await taken(taker, 2)
    assert told == ["first"]
    taker.gate.release()
    await batches.close()
    assert taker.batches == [["first"], [str(number) for number in range(50)]]
    assert told == ["first", *map(str, range(50))]
    assert len(taker.threads) == 1


async def test_a_batch_is_not_larger_than_a_commit_should_be() -> None:
    taker = Taker()
    batches = Batches(taker)
    half = 17 * 2**20
    for name in ("a", "b", "c"):
        batches.offer(letter(name, half), "", lambda _: None)
    taker.gate.release(3)
    await batches.close()
    assert taker.batches == [["a"], ["b"], ["c"]]


async def test_a_batch_that_breaks_is_told_and_the_next_one_goes_on() -> None:
    taker = Taker()
    batches = Batches(taker)
    told: list[int] = []
    taker.fails = True
    batches.offer(letter("a"), "", lambda reply: told.append(reply.code))
    taker.gate.release()
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0.001)
    taker.fails = False
    batches.offer(letter("b"), "", lambda reply: told.append(reply.code))
    taker.gate.release()
    await batches.close()
    assert told == [451, 250]


async def test_a_session_that_breaks_leaves_the_others_their_answers() -> None:
    taker = Taker()
    batches = Batches(taker)
    told: list[int] = []

    def broken(_: SmtpReply) -> None:
        raise RuntimeError("broken")

    batches.offer(letter("a"), "", broken)
    batches.offer(letter("b"), "", lambda reply: told.append(reply.code))
    taker.gate.release()
    await batches.close()
    assert taker.batches == [["a", "b"]]
    assert told == [250]

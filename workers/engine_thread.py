"""The engine thread of a process: one event loop, under Celery's threads.

Gives    Engine; STOP_S
Takes    coroutines, from any thread
Raises   what the work raises, from `call`; `submit` and `keep` tell the log
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from mailcore.ports import StoreUnavailable

STOP_S = 30.0
# Of the time to stop in, what is kept for settling.
SETTLE_S = 3.0

log = logging.getLogger(__name__)


class Engine:
    """A thread with an event loop. A loop of ours that breaks ends the process: the supervisor
    starts it again and the journal tells what was open."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, Any], *, wait_s: float) -> None:
        """Start work and wait for it a little; it goes on if it takes longer."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            future.result(timeout=wait_s)
        except concurrent.futures.TimeoutError:
            future.add_done_callback(_report)
        except StoreUnavailable as exc:
            # The next bell tries again; there is nothing in it that anybody should repair.
            log.warning("left undone", extra={"store": exc.store, "reason": exc.reason})

    def call(self, work: Coroutine[Any, Any, Any], *, timeout_s: float = STOP_S) -> Any:
        """Run work to its end and return what it gives."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=timeout_s)

    def finish(self, stop: Callable[..., Coroutine[Any, Any, Any]], *, within_s: float) -> None:
        """Run what stops the work, `stop(within_s=…)`, and leave it time to settle what it cut."""
        try:
            self.call(stop(within_s=within_s - SETTLE_S), timeout_s=within_s)
        except concurrent.futures.TimeoutError:
            log.warning("not settled in time; the journal tells the rest")

    def keep(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        """Start a loop that must never end by itself."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        future.add_done_callback(_end_if_broken)
        return future

    def stop(self) -> None:
        """Cancel what still waits and end the thread."""
        with contextlib.suppress(concurrent.futures.TimeoutError):
            self.call(_cancel_all(), timeout_s=5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _report(future: concurrent.futures.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("work outlived its task and failed", exc_info=error)


def _end_if_broken(future: concurrent.futures.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.critical("a loop of the engine broke; this process ends", exc_info=error)
        os.kill(os.getpid(), signal.SIGKILL)

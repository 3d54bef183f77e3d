"""Run named pieces of work in lanes side by side, and end all that runs when told to.

Gives: Lanes: run() does each piece in a lane; call() runs a command for a piece and returns its
    exit code; end() ends every command that runs and begins no other.
Takes: the names in the order in which they are wanted.
Raises: what a piece of work raises, when all lanes have come to their end.
Follows: subprocess: the commands stay in our process group, so a Ctrl-C of the terminal reaches
    them without us.

The first lane takes from the front of the list and the second from its back. What is wanted early
stands in front, what waits more than it works at the back, and so the two run beside each other.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

# An interrupted pytest ends its fixtures first: whole fleets, some of them.
GRACE_S = 30.0
NOT_BEGUN = -1

T = TypeVar("T")


class Lanes:
    """Work side by side."""

    def __init__(self, names: Sequence[str], count: int) -> None:
        self._names = tuple(names)
        self._waiting = deque(names)
        self.count = max(1, min(count, len(names)))
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._is_over = False

    def run(self, work: Callable[[str], T]) -> list[T]:
        """Do the work for each name; return what came of it, in the order of the names, without
        those that were never begun because of an end."""
        done: dict[str, T] = {}
        with ThreadPoolExecutor(self.count) as pool:
            lanes = [pool.submit(self._run_lane, n, work, done) for n in range(self.count)]
            try:
                for lane in lanes:
                    lane.result()
            except KeyboardInterrupt:
                self.end(is_known=True)
                raise
            except BaseException:
                self.end()
                raise
        return [done[name] for name in self._names if name in done]

    def call(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        out: IO[bytes] | None = None,
    ) -> int:
        """Run a command to its end, its words into a file if there is one."""
        with self._lock:
            if self._is_over:
                return NOT_BEGUN
            said = None if out is None else subprocess.STDOUT
            process = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=said)
            self._running.append(process)
        code = process.wait()
        with self._lock:
            self._running.remove(process)
        return code

    def end(self, *, is_known: bool = False) -> None:
        """End all that runs and begin nothing more: ask as Ctrl-C does, unless the terminal has
        (`is_known`), for a second time cuts their clearing up short; then insist."""
        with self._lock:
            self._is_over = True
            self._waiting.clear()
            running = tuple(self._running)
        try:
            if not is_known:
                _send(signal.SIGINT, running)
            _wait(running, GRACE_S)
            _send(signal.SIGTERM, running)
            _wait(running, GRACE_S / 3)
        finally:
            _send(signal.SIGKILL, running)

    def _run_lane(self, number: int, work: Callable[[str], T], done: dict[str, T]) -> None:
        take = self._waiting.pop if number % 2 else self._waiting.popleft
        while True:
            try:
                name = take()
            except IndexError:
                return
            done[name] = work(name)


def _send(number: signal.Signals, running: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.send_signal(number)  # to nobody, if it has ended


def _wait(running: Iterable[subprocess.Popen[bytes]], within_s: float) -> None:
    until = time.monotonic() + within_s
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return

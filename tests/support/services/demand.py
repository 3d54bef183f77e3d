"""Start what a session asks for: all of it side by side, at the first demand for any.

Takes    how to make each service
Gives    Demand: begin(), get(), stop()
Raises   MissingService and StartError of the service asked for, each time it is asked for
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol


class Service(Protocol):
    """What all services of the stack are."""

    name: str
    version: str

    def start(self) -> None:
        """Start it, and return when it is ready."""
        ...

    def kill(self) -> None:
        """End it and all it has started."""
        ...


Maker = Callable[[Callable[[str], Service]], Service]


class Demand:
    """The services of one test session."""

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self._makers = makers
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._begun: dict[str, Future[Service]] = {}

    def begin(self, names: Iterable[str]) -> None:
        """Start services in the background; those begun already are left alone."""
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(2 * len(self._makers))
            for name in names:
                if name not in self._begun:
                    self._begun[name] = self._pool.submit(self._start, name)

    def get(self, name: str) -> Service:
        """Return a service that is ready."""
        self.begin([name])
        return self._begun[name].result()

    def stop(self) -> None:
        """End every service that was begun."""
        with self._lock:
            begun, self._begun = self._begun, {}
            pool, self._pool = self._pool, None
        if pool is None:
            return
        # One after the other: a killed daemon takes hundredths of a second, and at the end of the
        # interpreter no thread can be started.
        for one in begun.values():
            if one.exception() is None:
                one.result().kill()
        pool.shutdown()

    def _start(self, name: str) -> Service:
        service = self._makers[name](self.get)
        try:
            service.start()
        except BaseException:
            service.kill()
            raise
        return service

"""Tell the ringer over Redis that mail was accepted.

Gives    RedisWaker.wake: never blocks, never fails
Follows  design.md section 3 step 3: the notice only makes things sooner, the ringer looks anyway

One thread publishes; what many commits ask for meanwhile is one notice. With Redis away it tries
once a second and nobody at the door notices.
"""

from __future__ import annotations

import contextlib
import threading

import redis

from mailio.notices import RING_CHANNEL

_PAUSE_S = 1.0


class RedisWaker:
    """Publishes notices on a thread of its own, which starts with the first."""

    def __init__(self, redis_url: str, *, channel: str = RING_CHANNEL) -> None:
        self._client = redis.Redis.from_url(
            redis_url, socket_timeout=_PAUSE_S, socket_connect_timeout=_PAUSE_S
        )
        self._channel = channel
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Ask for a notice."""
        self._wanted.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="wake", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopped.is_set():
                return
            self._wanted.clear()
            with contextlib.suppress(redis.RedisError, OSError):
                self._client.publish(self._channel, "accepted")
                continue
            self._stopped.wait(_PAUSE_S)

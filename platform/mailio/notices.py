"""Hear notices over Redis: "mail was accepted", "a hold was placed or released".

Gives    listen: a thread that calls back for each notice, until it is stopped
Takes    a Redis URL, a channel, a callback (called on the thread, with the text)
Raises   nothing: a notice only makes things sooner; whoever listens also polls
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

RING_CHANNEL = "pf:ring"
HOLD_CHANNEL = "pf:holds"
_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class Listener:
    """A subscription that reconnects until `stop`."""

    def __init__(self, redis_url: str, channel: str, heard: Callable[[str], None]) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5)
        self._channel = channel
        self._heard = heard
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"notices {channel}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread within a second."""
        self._stopped.set()
        self._thread.join(timeout=3)
        self._client.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._subscribed()
            except redis.RedisError as exc:
                log.info("notices are away", extra={"reason": str(exc)})
                self._stopped.wait(_PAUSE_S)

    def _subscribed(self) -> None:
        with self._client.pubsub(  # type: ignore[no-untyped-call]
            ignore_subscribe_messages=True
        ) as subscription:
            subscription.subscribe(self._channel)
            # What was said before we subscribed is lost: look once.
            self._heard("")
            while not self._stopped.is_set():
                message = subscription.get_message(timeout=1.0)
                if message is not None:
                    self._heard(message["data"].decode("utf-8", "replace"))

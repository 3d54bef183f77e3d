"""The policy snapshot in force in this process: fetched, verified, swapped between drains.

Gives    PolicyCache, a `mailcore.ports.PolicySource`; start, refresh, staleness_s, stop
Takes    the store of revisions, notices over Redis, a poll every two seconds
Raises   PolicyMissing at the start when there is no snapshot this program can read. Later on
         nothing: the last good one stays in force and `staleness_s` rises
Follows  design.md section 6; style.md section 4, "from a row to a worker"
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Self

from mailcore.errors import PostfleetError, SchemaError
from mailcore.policy import codec
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import StoreUnavailable
from mailio.settings import Settings
from mailio.snapshots import SnapshotStore, StoredRevision, Watch

log = logging.getLogger(__name__)
ACKNOWLEDGE_EVERY_S = 5.0


class PolicyMissing(PostfleetError):
    """There is no policy to begin with; the message says what to do."""


class PolicyCache:
    """Holds one snapshot. `current` is a plain read; the swap is one assignment."""

    def __init__(self, store: SnapshotStore, *, node: str, process: str) -> None:
        self._store = store
        self._node = node
        self._process = process
        self._turn = threading.Lock()
        self._watch: Watch | None = None
        self._digest = ""
        self._refused: tuple[int, str] | None = None
        self._acknowledged_at = float("-inf")
        self._confirmed_at = time.monotonic()
        self._snapshot = self._load_first()

    @classmethod
    def start(cls, settings: Settings, *, process: str) -> Self:
        """Load the active revision, follow it from now on; PolicyMissing if there is none."""
        cache = cls(SnapshotStore(settings.database_url), node=settings.node, process=process)
        cache.follow(settings.redis_url)
        return cache

    def follow(self, redis_url: str) -> None:
        """Begin to listen for notices, and to poll in case one is lost."""
        self._watch = Watch(redis_url, self.refresh)
        self._watch.start()

    def current(self) -> PolicySnapshot:
        """Return the snapshot in force; it never changes while held."""
        return self._snapshot

    @property
    def revision(self) -> int:
        """The number of the snapshot in force here."""
        return self._snapshot.revision

    def staleness_s(self) -> float:
        """Seconds since the store last confirmed that this is the revision to run."""
        return time.monotonic() - self._confirmed_at

    def refresh(self) -> bool:
        """Swap if another revision is active; return whether the one in force is the right one."""
        with self._turn:
            try:
                is_right = self._refresh()
                self._acknowledge()
            except StoreUnavailable as exc:
                log.warning(
                    "policy store unavailable", extra={"store": exc.store, "reason": exc.reason}
                )
                return False
            return is_right

    def stop(self) -> None:
        """Follow no more; say that this process runs nothing."""
        if self._watch is not None:
            self._watch.stop()
        try:
            self._store.retire(node=self._node, process=self._process)
        except StoreUnavailable as exc:
            log.warning("policy not retired", extra={"store": exc.store, "reason": exc.reason})
        self._store.close()

    def _load_first(self) -> PolicySnapshot:
        try:
            stored = self._store.active()
            if stored is None:
                raise PolicyMissing(
                    "no policy has been published yet: run `manage.py migrate` and "
                    "`manage.py seed`, then start the workers"
                )
            snapshot = _read(stored)
            self._store.acknowledge(
                node=self._node, process=self._process, revision=snapshot.revision
            )
        except SchemaError as exc:
            raise PolicyMissing(f"the active policy cannot be read: {exc}") from exc
        except StoreUnavailable as exc:
            raise PolicyMissing(f"the policy cannot be fetched: {exc}") from exc
        self._digest = stored.digest
        self._confirmed_at = self._acknowledged_at = time.monotonic()
        return snapshot

    def _refresh(self) -> bool:
        active = self._store.active_number()
        if active is None:
            return False
        if active != (self._snapshot.revision, self._digest):
            if active == self._refused:
                return False
            if not self._swap(active):
                return False
        self._confirmed_at = time.monotonic()
        return True

    def _swap(self, wanted: tuple[int, str]) -> bool:
        stored = self._store.fetch(wanted[0])
        if stored is None:
            return False
        try:
            snapshot = _read(stored)
            self._store.acknowledge(
                node=self._node, process=self._process, revision=snapshot.revision
            )
        except SchemaError as exc:
            # Said once per revision; the last good one goes on, and staleness shows it.
            self._refused = wanted
            log.error("policy refused", extra={"revision": wanted[0], "reason": str(exc)})
            return False
        self._digest = stored.digest
        self._snapshot = snapshot
        self._acknowledged_at = float("-inf")
        log.info("policy swapped", extra={"revision": snapshot.revision})
        return True

    def _acknowledge(self) -> None:
        """Tell which revision runs here: at once after a swap, else every few seconds."""
        now = time.monotonic()
        if now - self._acknowledged_at < ACKNOWLEDGE_EVERY_S:
            return
        self._store.acknowledge(
            node=self._node, process=self._process, revision=self._snapshot.revision
        )
        self._acknowledged_at = now


def _read(stored: StoredRevision) -> PolicySnapshot:
    return codec.decode(stored.body, digest=stored.digest, revision=stored.revision)

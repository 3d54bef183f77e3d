"""The policy snapshot in force in a web process.

Gives    PolicyReader, a mailcore.ports.PolicySource
Raises   StoreUnavailable while there has never been a snapshot; later the last good one counts
Follows  design.md section 6
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mailcore.errors import SchemaError
from mailcore.policy import codec
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import StoreUnavailable
from mailio.snapshots import SnapshotStore

CHECKED_EVERY_S = 1.0

log = logging.getLogger(__name__)


class PolicyReader:
    """Asks once a second which revision is in force; who comes meanwhile takes what there is."""

    def __init__(
        self, store: SnapshotStore, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._turn = threading.Lock()
        self._snapshot: PolicySnapshot | None = None
        self._digest = ""
        self._checked_at = float("-inf")

    def current(self) -> PolicySnapshot:
        """Return the snapshot in force; it never changes while held."""
        known = self._snapshot
        if known is not None and self._monotonic() - self._checked_at < CHECKED_EVERY_S:
            return known
        # One asks; the others go on with what they have, if they have anything.
        if self._turn.acquire(blocking=known is None):
            try:
                if self._monotonic() - self._checked_at >= CHECKED_EVERY_S:
                    self._check()
            finally:
                self._turn.release()
        if self._snapshot is None:
            raise StoreUnavailable("policy", "no policy was published yet")
        return self._snapshot

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()

    def _check(self) -> None:
        try:
            number = self._store.active_number()
            if number is not None and number[1] != self._digest:
                self._load()
        except StoreUnavailable:
            if self._snapshot is None:
                raise
            log.warning("policy store unavailable; the last policy stays in force")
        self._checked_at = self._monotonic()

    def _load(self) -> None:
        stored = self._store.active()
        if stored is None:
            return
        try:
            self._snapshot = codec.decode(
                stored.body, digest=stored.digest, revision=stored.revision
            )
        except SchemaError as exc:
            if self._snapshot is None:
                raise StoreUnavailable("policy", str(exc)) from exc
            log.exception("policy cannot be read", extra={"revision": stored.revision})
        self._digest = stored.digest

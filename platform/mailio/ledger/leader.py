"""Locks that one process of the fleet holds at a time, for as long as its session lives.

Gives    Leadership
Takes    a Session that is used for nothing that could keep it busy
Raises   StoreUnavailable

An advisory lock ends with its connection, so a process that dies or is cut off leads no more. When
the connection was lost, everything it held is lost: `take` tells by trying again.
"""

from __future__ import annotations

import hashlib

from mailcore.ports import StoreUnavailable
from mailio.ledger.pool import Session


class Leadership:
    """Named locks on one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: dict[str, int] = {}

    def take(self, role: str) -> bool:
        """Take the lock or see that it is still ours."""
        if self._is_held(role):
            return True
        found = self._session.run("SELECT pg_try_advisory_lock(%s)", (_key(role),))
        if found[0][0]:
            self._held[role] = self._session.generation
            return True
        return False

    def release(self, role: str) -> None:
        """Give the lock back, if it is ours."""
        if self._held.pop(role, None) == self._session.generation:
            self._session.run("SELECT pg_advisory_unlock(%s)", (_key(role),), again=False)

    def _is_held(self, role: str) -> bool:
        if role not in self._held:
            return False
        try:
            self._session.run("SELECT 1", again=False)
        except StoreUnavailable:
            self._held.clear()
            return False
        if self._held[role] == self._session.generation:
            return True
        self._held.clear()
        return False


def _key(role: str) -> int:
    digest = hashlib.blake2b(role.encode(), digest_size=8, person=b"ledgerlead").digest()
    return int.from_bytes(digest, "big", signed=True)

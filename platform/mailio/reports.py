"""The way of our own reports through the front door.

Gives    SpoolReportDoor, which implements mailcore.ports.ReportDoor
Takes    an Intake, and the spool it writes to
Raises   StoreUnavailable: nothing of what was offered may be called queued
Follows  style.md rule 7: a key is stored in the transaction that queues the message

The keys are those of account 0, which no client has: nobody can take one before us.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from uuid import UUID

from mailcore.envelope import ContentRef, uuid7
from mailcore.ports import KeyedMail
from mailcore.stoplist import EVERYBODY
from mailcore.submission import Plan
from mailio.intake import Intake, Receipt, Request, RequestKey
from mailio.spool.opening import Spool


class SpoolReportDoor:
    """The front door, as reports use it. Thread-safe."""

    def __init__(self, intake: Intake, spool: Spool) -> None:
        self._intake = intake
        self._spool = spool

    def new_id(self) -> UUID:
        """Return the id of a message to come."""
        return uuid7(int(time.time() * 1000), os.urandom(10))

    def is_known(self, key: str) -> bool:
        """Whether a message was queued under this key."""
        return self._intake.find(_key(key)) is not None

    def content(self, ref: ContentRef) -> bytes | None:
        """Return it while the spool of this node has it."""
        return self._spool.read_now([ref])[0]

    def submit(self, mails: Sequence[KeyedMail]) -> None:
        """Queue those whose key is free, all together or none."""
        self._intake.submit_all([_request(mail) for mail in mails])


def _request(mail: KeyedMail) -> Request:
    plan = Plan(mail.submission, (), mail.lifetime_s, mail.policy_revision)
    return Request((plan,), _key(mail.key), _answer)


def _key(name: str) -> RequestKey:
    return RequestKey(EVERYBODY, name, hashlib.sha256(name.encode()).digest())


def _answer(receipts: Sequence[Receipt]) -> str:
    return str(receipts[0].message_id)

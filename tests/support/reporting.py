"""Reports to senders without stores: a door that remembers, and facts to report of.

Gives    MemoryReportDoor, reporter, Fixed (a PolicySource); event, facts, NOW, CONTENT
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.dsn import DsnOrder, facts_text
from mailcore.envelope import ContentRef
from mailcore.events import Event
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import KeyedMail, StoreUnavailable
from tests.support import builders
from workers.engines.report import Reporter

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
MESSAGE = "01950000-0000-7000-8000-000000000001"
REF = ContentRef(10, 20, 300, 40)
CONTENT = (
    b"From: news@sender.test\r\nTo: bob@example.org\r\nSubject: Offers\r\n"
    b"Message-ID: <m1@sender.test>\r\nMIME-Version: 1.0\r\n\r\nThe body.\r\n"
)


@dataclass(frozen=True)
class Fixed:
    """The policy that is in force."""

    policy: PolicySnapshot

    def current(self) -> PolicySnapshot:
        return self.policy


class Stopped:
    """A clock that stands."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


@dataclass
class MemoryReportDoor:
    """Queues under keys, all together or none, as the real one does."""

    content_of: dict[ContentRef, bytes] = field(default_factory=lambda: {REF: CONTENT})
    queued: list[KeyedMail] = field(default_factory=list)
    submits: list[int] = field(default_factory=list)
    unstorable: str = ""
    is_away: bool = False

    def new_id(self) -> UUID:
        return UUID(int=len(self.queued) + 1)

    def is_known(self, key: str) -> bool:
        return any(mail.key == key for mail in self.queued)

    def content(self, ref: ContentRef) -> bytes | None:
        return self.content_of.get(ref)

    def submit(self, mails: Sequence[KeyedMail]) -> None:
        if self.is_away:
            raise StoreUnavailable("postgresql", "away")
        if any(self.unstorable and self.unstorable in mail.key for mail in mails):
            raise ValueError("no column takes this")
        self.submits.append(len(mails))
        self.queued += [mail for mail in mails if not self.is_known(mail.key)]


def reporter(
    door: MemoryReportDoor | None = None, policy: PolicySnapshot | None = None, chunk: int = 50
) -> Reporter:
    return Reporter(
        policy=Fixed(policy or builders.policy()),
        door=door or MemoryReportDoor(),
        clock=Stopped(),
        host="mx.sender.test",
        chunk=chunk,
    )


def facts(order: DsnOrder | None = None, **given: Any) -> str:
    """Return the facts of an event; `given` as in facts_text."""
    values: dict[str, Any] = {"reverse_path": "news@sender.test", "content": REF}
    values["expires_ms"] = NOW_MS + 86_400_000
    return facts_text((order or DsnOrder()).to_text(), **values | given)


def event(kind: str = "bounced", **given: Any) -> Event:
    """Return an event of a message that came by SMTP."""
    values: dict[str, Any] = {
        "event_id": f"e-{kind}",
        "kind": kind,
        "occurred_ms": NOW_MS,
        "message_id": MESSAGE,
        "recipient_no": 0,
        "claim_no": 1,
        "account_id": 1,
        "sender_id": 1,
        "mx_host": "mx.example.org",
        "recipient": "bob@example.org",
        "header_from": "sender.test",
        "message_id_header": "<m1@sender.test>",
        "accepted_ms": NOW_MS - 60_000,
        "attempt": 1,
        "stage": "rcpt",
        "code": 550,
        "enhanced": "5.1.1",
        "reply": "550 5.1.1 no such user here",
        "dsn": facts(),
    }
    return Event(**values | given)

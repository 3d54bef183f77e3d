"""Fakes for the poller: a mailbox in memory, its bookkeeping, and what is known of recipients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from uuid import UUID

from mailcore.events import Event
from mailcore.policy.model import Mailbox
from mailcore.ports import (
    InboundRecord,
    MailboxError,
    MailboxItem,
    Seen,
    SeenState,
    StoreUnavailable,
)


class Killed(BaseException):
    """The process ends here: nothing of ours may catch it and go on."""


@dataclass
class MemoryMailbox:
    """A mailbox and the way to it. `dies` names a step at which the process is killed."""

    messages: dict[str, bytes] = field(default_factory=dict)
    dies: str = ""
    refuses: str = ""
    sessions: int = 0
    fetched: list[str] = field(default_factory=list)
    before_fetch: Callable[[str], None] = lambda uidl: None

    def open(self, mailbox: Mailbox, password: bytes) -> MemorySession:
        if self.refuses:
            raise MailboxError(self.refuses)
        assert password == b"secret"
        self.sessions += 1
        return MemorySession(self)


class MemorySession:
    """One session: numbers are good for it alone."""

    def __init__(self, box: MemoryMailbox) -> None:
        self._box = box
        self._listed = list(box.messages)
        self._marked: list[str] = []

    def listing(self) -> Iterator[MailboxItem]:
        yield from (MailboxItem(n, uidl) for n, uidl in enumerate(self._listed, 1))

    def fetch(self, numbers: Sequence[int], *, most_bytes: int) -> Iterator[bytes | None]:
        for number in numbers:
            uidl = self._listed[number - 1]
            self._box.before_fetch(uidl)
            self._box.fetched.append(uidl)
            content = self._box.messages.get(uidl)
            yield content if content is None else content[:most_bytes]

    def delete(self, numbers: Sequence[int]) -> None:
        if self._box.dies == "delete":
            raise Killed
        self._marked += [self._listed[number - 1] for number in numbers]

    def commit(self) -> None:
        if self._box.dies == "before commit":
            raise Killed
        for uidl in self._marked:
            self._box.messages.pop(uidl, None)
        if self._box.dies == "after commit":
            raise Killed

    def abort(self) -> None:
        return


@dataclass
class MemoryInbound:
    """The bookkeeping, with the promises of the real one."""

    noted: dict[str, tuple[bool, int]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    tally: dict[tuple[str, str], int] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    ends: list[tuple[float, int, str]] = field(default_factory=list)
    abandoned: int = 0
    is_due: bool = True
    is_away: bool = False
    dies: str = ""
    largest: int = 0

    def begin(self, mailbox_id: int, *, node: str) -> bool:
        if self.is_away:
            raise StoreUnavailable("postgresql", "away")
        return self.is_due

    def end(self, mailbox_id: int, *, next_in_s: float, read: int, error: str) -> None:
        self.ends.append((next_in_s, read, error))

    def abandon(self, mailbox_id: int) -> None:
        self.abandoned += 1

    def seen(self, mailbox_id: int, uidls: Sequence[str]) -> Mapping[str, Seen]:
        return {
            uidl: Seen(self._state(uidl), self.noted[uidl][1])
            for uidl in uidls
            if uidl in self.noted
        }

    def _state(self, uidl: str) -> SeenState:
        if self.noted[uidl][0]:
            return SeenState.DONE
        return SeenState.WAITING if uidl in self.waiting else SeenState.DUE

    def record(
        self, mailbox_id: int, records: Sequence[InboundRecord], events: Sequence[Event]
    ) -> int:
        if self.dies == "before record":
            raise Killed
        self.largest = max(self.largest, len(records))
        for one in records:
            is_done, tries = self.noted.get(one.uidl, (False, 0))
            if not is_done:
                self.noted[one.uidl] = (one.postponed_s is None, tries + 1)
                if one.postponed_s is None:
                    key = one.kind, one.fate
                    self.tally[key] = self.tally.get(key, 0) + 1
        new = {event.event_id: event for event in events if event.event_id not in self.events}
        self.events |= new
        if self.dies == "after record":
            raise Killed
        return len(new)

    def forget(self, mailbox_id: int, uidls: Sequence[str]) -> None:
        if self.dies == "forget":
            raise Killed
        for uidl in uidls:
            self.noted.pop(uidl, None)

    def prune(self) -> None:
        return


@dataclass
class MemoryTraces:
    """Events by their message."""

    events: dict[str, list[Event]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    is_away: bool = False

    def put(self, event: Event) -> None:
        self.events.setdefault(event.message_id, []).append(event)

    def of_messages(self, message_ids: Sequence[UUID]) -> Sequence[Mapping[str, object]]:
        if self.is_away:
            raise StoreUnavailable("clickhouse", "away")
        self.asked.append(len(message_ids))
        return [asdict(event) for one in message_ids for event in self.events.get(str(one), ())]

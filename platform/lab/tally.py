"""Count what happened at the receivers, and keep it.

Gives    Tally: add(), connection_ended(), counts(), rows(), message(), reset(); Fact, Fate, Ending
Takes    facts from sessions; a directory for the journal (facts.jsonl), which is read back when the
         lab starts again, so that a restart forgets no copy
Raises   OSError when the journal cannot be written
Follows  design.md section 5: what is claimed of the product is counted here, not from its database
"""

import fcntl
import json
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

JOURNAL_NAME = "facts.jsonl"
ON_THE_WIRE_WINDOW_S = 0.1
MAX_ENDINGS = 10_000
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Fate(Enum):
    """What a recipient of a transaction met here."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # 5yz
    DEFERRED = "deferred"  # 4yz
    UNANSWERED = "unanswered"  # the line was gone before the reply at the dot


@dataclass(frozen=True, slots=True)
class Fact:
    """One recipient, one reply. `lab_id` and content are known only once content came."""

    fate: Fate
    provider: str
    host: str
    stage: str
    recipient: str
    reverse_path: str
    reply: str | None
    connection: int
    transaction: int
    peer: str
    at: float
    monotonic: float
    lab_id: str | None = None
    envid: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    tls: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the fact as it is journaled."""
        return {
            "kind": "fact",
            "fate": self.fate.value,
            "provider": self.provider,
            "host": self.host,
            "stage": self.stage,
            "id": self.lab_id,
            "recipient": self.recipient,
            "reverse_path": self.reverse_path,
            "reply": self.reply,
            "connection": self.connection,
            "transaction": self.transaction,
            "peer": self.peer,
            "at": self.at,
            "monotonic": self.monotonic,
            "envid": self.envid,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "tls": self.tls,
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one connection. What was on the wire then may come again, and rightly."""

    provider: str
    host: str
    connection: int
    peer: str
    at: float
    is_clean: bool  # the client said QUIT, or we closed it ourselves
    is_tls: bool
    transactions: int
    unanswered: int  # recipients of a transaction begun and not answered at the dot
    just_answered: int  # recipients answered less than ON_THE_WIRE_WINDOW_S before the end
    lost_replies: int = 0  # recipients taken without the reply that says so

    @property
    def on_the_wire(self) -> int:
        """Recipients whose sender may not know what became of them."""
        return 0 if self.is_clean else self.unanswered + self.just_answered + self.lost_replies


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it was received, transparency taken back."""

    lab_id: str
    provider: str
    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes
    sha256: str
    at: float
    peer: str = ""
    envid: str | None = None
    unnotified: tuple[str, ...] = ()  # recipients with NOTIFY=NEVER (RFC 3461 §4.1)


@dataclass(slots=True)
class _Totals:
    """What one provider counted."""

    replies: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    deferred: set[str] = field(default_factory=set)
    defects: Counter[str] = field(default_factory=Counter)
    fates: Counter[Fate] = field(default_factory=Counter)
    lost_replies: int = 0
    transactions: int = 0
    last_transaction: tuple[int, int] = (-1, -1)
    size_bytes: int = 0
    connections: int = 0
    tls_connections: int = 0
    lost_connections: int = 0
    on_the_wire: int = 0

    def counts(self) -> dict[str, Any]:
        """Return the totals as plain values."""
        return {
            "transactions_accepted": self.transactions,
            "accepted": self.fates[Fate.ACCEPTED],
            "accepted_unique": len(self.accepted),
            "duplicates": self.fates[Fate.ACCEPTED] - len(self.accepted),
            "refused": self.fates[Fate.REFUSED],
            "refused_unique": len(self.refused),
            "deferred": self.fates[Fate.DEFERRED],
            "deferred_unique": len(self.deferred),
            "unanswered": self.fates[Fate.UNANSWERED],
            "lost_replies": self.lost_replies,
            "on_the_wire": self.on_the_wire,
            "connections": self.connections,
            "tls_connections": self.tls_connections,
            "lost_connections": self.lost_connections,
            "size_bytes": self.size_bytes,
            "replies": dict(self.replies),
            "stages": dict(self.stages),
            "defects": dict(self.defects),
        }


class Tally:
    """All counts of the lab. One loop writes it; nothing here waits."""

    def __init__(
        self,
        directory: Path,
        providers: tuple[str, ...],
        *,
        keep_messages: int = 200,
        keep_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.journal_path = directory / JOURNAL_NAME
        self.keep_prefixes: tuple[str, ...] = ()
        self.endings: deque[Ending] = deque(maxlen=MAX_ENDINGS)
        self.on_stored: Callable[[StoredMessage], None] | None = None
        self._providers = providers
        self._keep_messages = keep_messages
        self._keep_bytes = keep_bytes
        self._totals: dict[str, _Totals] = {}
        self._pending: list[dict[str, Any]] = []
        self._recent: OrderedDict[int, StoredMessage] = OrderedDict()
        self._kept: dict[int, StoredMessage] = {}
        self._stored_bytes = 0
        self._stored_count = 0
        self._connections = 0
        self._clear()
        self._fd = os.open(self.journal_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._fd)
            reason = f"another lab writes this journal: {self.journal_path}"
            raise OSError(exc.errno, reason) from exc
        self._replay()

    # -- what sessions say ---------------------------------------------------------------------

    def next_connection(self) -> int:
        """Return the number of a new connection, unique over the life of the journal."""
        self._connections += 1
        return self._connections

    def add(self, fact: Fact) -> None:
        """Count a fact and put it down for the journal."""
        self._count(fact)
        self._pending.append(fact.row())

    def add_defect(self, provider: str, defect: str, *, connection: int, at: float) -> None:
        """Count a fault of the client."""
        self._totals[provider].defects[defect] += 1
        self._pending.append(
            {"kind": "defect", "provider": provider, "defect": defect, "connection": connection}
            | {"at": at}
        )

    def add_reply(
        self, provider: str, stage: str, reply: str, *, connection: int, at: float
    ) -> None:
        """Count a reply other than 2yz that speaks of no recipient (greeting, EHLO, MAIL, DATA)."""
        row = {"kind": "reply", "provider": provider, "stage": stage, "reply": reply}
        self._count_reply(provider, stage, reply)
        self._pending.append(row | {"connection": connection, "at": at})

    def connection_ended(self, ending: Ending) -> None:
        """Count a connection at its end."""
        self._count_ending(ending)
        self._pending.append({"kind": "ending", **asdict(ending)})

    def store(self, message: StoredMessage) -> None:
        """Keep the bytes of a message: the latest few, and all whose id has a kept prefix."""
        if self.on_stored is not None:
            self.on_stored(message)
        self._stored_count += 1
        if self.keep_prefixes and message.lab_id.startswith(self.keep_prefixes):
            self._kept[self._stored_count] = message
            return
        self._recent[self._stored_count] = message
        self._stored_bytes += len(message.content)
        while len(self._recent) > self._keep_messages or (
            self._stored_bytes > self._keep_bytes and len(self._recent) > 1
        ):
            _, gone = self._recent.popitem(last=False)
            self._stored_bytes -= len(gone.content)

    # -- what is asked -------------------------------------------------------------------------

    def counts(self) -> dict[str, Any]:
        """Return totals per provider and their sum."""
        providers = {key: totals.counts() for key, totals in self._totals.items()}
        total: dict[str, Any] = {}
        for one in providers.values():
            for name, value in one.items():
                if isinstance(value, dict):
                    total[name] = dict(Counter(total.get(name, {})) + Counter(value))
                else:
                    total[name] = total.get(name, 0) + value
        return {"providers": providers, "total": total}

    def copies(self, provider: str, lab_id: str, recipient: str) -> int:
        """Return how many copies of a message this recipient was given."""
        return self._totals[provider].accepted.get(f"{lab_id} {recipient}", 0)

    def messages(self, lab_id: str) -> list[StoredMessage]:
        """Return the stored copies of a message, oldest first."""
        wanted = {lab_id, f"<{lab_id}>"}
        stored = sorted([*self._kept.items(), *self._recent.items()])
        return [message for _, message in stored if message.lab_id in wanted]

    def stored_ids(self) -> list[str]:
        """Return the ids of all stored messages, oldest first."""
        return [m.lab_id for _, m in sorted([*self._kept.items(), *self._recent.items()])]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Flush, then read the journal as it is now; what comes later is not in it."""
        self.flush()
        size = os.fstat(self._fd).st_size
        with self.journal_path.open("rb") as journal:
            while journal.tell() < size:
                line = journal.readline()
                if line.endswith(b"\n"):
                    yield json.loads(line)

    # -- the journal ---------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        rows, self._pending = self._pending, []
        view = memoryview("".join([_encode(row) + "\n" for row in rows]).encode())
        while view:
            view = view[os.write(self._fd, view) :]

    def reset(self) -> None:
        """Forget everything, the journal included."""
        self._clear()
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Flush and let go of the journal."""
        self.flush()
        os.close(self._fd)

    def _clear(self) -> None:
        self._totals = {key: _Totals() for key in self._providers}
        self._pending.clear()
        self.endings.clear()
        self._recent.clear()
        self._kept.clear()
        self._stored_bytes = 0

    def _replay(self) -> None:
        """Count what an earlier life of the lab wrote; a torn last line is cut off."""
        whole = 0
        with self.journal_path.open("rb") as journal:
            for line in journal:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self._replay_row(json.loads(line))
        os.ftruncate(self._fd, whole)

    def _replay_row(self, row: dict[str, Any]) -> None:
        kind = row.pop("kind")
        self._connections = max(self._connections, row["connection"])
        if row["provider"] not in self._totals:
            return  # the world has changed since
        if kind == "fact":
            self._count(Fact(**row | {"fate": Fate(row["fate"]), "lab_id": row.pop("id")}))
        elif kind == "defect":
            self._totals[row["provider"]].defects[row["defect"]] += 1
        elif kind == "reply":
            self._count_reply(row["provider"], row["stage"], row["reply"])
        else:
            self._count_ending(Ending(**row))

    def _count(self, fact: Fact) -> None:
        totals = self._totals[fact.provider]
        totals.fates[fact.fate] += 1
        if fact.fate is Fate.ACCEPTED:
            key = f"{fact.lab_id} {fact.recipient}"
            totals.accepted[key] = totals.accepted.get(key, 0) + 1
            totals.lost_replies += fact.reply is None
            transaction = (fact.connection, fact.transaction)
            if transaction != totals.last_transaction:
                totals.last_transaction = transaction
                totals.transactions += 1
                totals.size_bytes += fact.size_bytes or 0
            return
        totals.stages[f"{fact.fate.value} at {fact.stage}"] += 1
        if fact.reply is not None:
            totals.replies[fact.reply] += 1
        # Before content came nothing but the envelope names the message.
        key = f"{fact.lab_id or fact.reverse_path} {fact.recipient}"
        if fact.fate is Fate.REFUSED:
            totals.refused[key] = totals.refused.get(key, 0) + 1
        elif fact.fate is Fate.DEFERRED:
            totals.deferred.add(key)

    def _count_reply(self, provider: str, stage: str, reply: str) -> None:
        fate = Fate.REFUSED if reply.startswith("5") else Fate.DEFERRED
        self._totals[provider].stages[f"{fate.value} at {stage}"] += 1
        self._totals[provider].replies[reply] += 1

    def _count_ending(self, ending: Ending) -> None:
        totals = self._totals[ending.provider]
        totals.connections += 1
        totals.tls_connections += ending.is_tls
        totals.lost_connections += not ending.is_clean
        totals.on_the_wire += ending.on_the_wire
        self.endings.append(ending)

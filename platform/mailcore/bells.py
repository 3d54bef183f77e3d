"""All that crosses RabbitMQ: bells that say "there is work", never facts.

Gives    DrainBell, RouteBell, ApplyBell, UpkeepBell; each `to_json` / `from_json`, and `words`
         for whoever watches the bells go by
Raises   SchemaError for a payload of a shape or version that cannot be read
Follows  design.md section 3 step 3: up to 100 paths of one node and class a bell

A bell may be lost, repeated or late without harm: what it points at is in PostgreSQL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mailcore.errors import SchemaError
from mailcore.outcome import MailClass

SCHEMA = 1
MAX_PATHS = 100
SHOWN_PATHS = 5


def _dump(body: Mapping[str, Any]) -> str:
    return json.dumps({"v": SCHEMA, **body}, separators=(",", ":"))


def _load(payload: str) -> dict[str, Any]:
    try:
        body = json.loads(payload)
    except ValueError as exc:
        raise SchemaError(f"a bell that is no JSON: {exc}") from exc
    if not isinstance(body, dict) or body.get("v") != SCHEMA:
        raise SchemaError("a bell of an unknown version")
    return body


@dataclass(frozen=True, slots=True, order=True)
class Path:
    """source × site: where connections and limits live."""

    source_id: int
    site: str

    @property
    def key(self) -> str:
        """The name used in Redis keys and metrics."""
        return f"{self.source_id}:{self.site}"


@dataclass(frozen=True, slots=True)
class DrainBell:
    """These paths of a node have mail of this class that is due.

    `is_retry` only says on which queue it travels (deferred bulk); it changes no fact.
    """

    node: str
    mail_class: MailClass
    paths: tuple[Path, ...]
    is_retry: bool = False

    @property
    def words(self) -> str:
        """Return it for people: `node1 main, 2 paths: 7:mx.example.com, 8:mx.example.com`."""
        kind = f"{self.mail_class.name.lower()}{' retry' if self.is_retry else ''}"
        count = f"{len(self.paths)} path{'s' * (len(self.paths) != 1)}"
        shown = ", ".join(path.key for path in self.paths[:SHOWN_PATHS])
        return f"{self.node} {kind}, {count}: {shown}{' …' * (len(self.paths) > SHOWN_PATHS)}"

    def to_json(self) -> str:
        """Return the payload of the task."""
        return _dump(
            {
                "node": self.node,
                "class": int(self.mail_class),
                "retry": self.is_retry,
                "paths": [[p.source_id, p.site] for p in self.paths],
            }
        )

    @classmethod
    def from_json(cls, payload: str) -> Self:
        """Read a payload, or raise SchemaError."""
        body = _load(payload)
        try:
            paths = tuple(Path(int(source), str(site)) for source, site in body["paths"])
            return cls(str(body["node"]), MailClass(body["class"]), paths, bool(body["retry"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise SchemaError(f"a drain bell with a field missing or wrong: {exc!r}") from exc


@dataclass(frozen=True, slots=True)
class RouteBell:
    """Some rows wait in unrouted lanes."""

    @property
    def words(self) -> str:
        """Return it for people."""
        return "unrouted lanes"

    def to_json(self) -> str:
        """Return the payload of the task."""
        return _dump({})

    @classmethod
    def from_json(cls, payload: str) -> Self:
        """Read a payload, or raise SchemaError."""
        _load(payload)
        return cls()


@dataclass(frozen=True, slots=True)
class ApplyBell:
    """The outbox has batches that a consumer has not seen."""

    consumer: str

    @property
    def words(self) -> str:
        """Return it for people: who reads the outbox."""
        return self.consumer

    def to_json(self) -> str:
        """Return the payload of the task."""
        return _dump({"consumer": self.consumer})

    @classmethod
    def from_json(cls, payload: str) -> Self:
        """Read a payload, or raise SchemaError."""
        body = _load(payload)
        try:
            return cls(str(body["consumer"]))
        except KeyError as exc:
            raise SchemaError("an apply bell without a consumer") from exc


@dataclass(frozen=True, slots=True)
class UpkeepBell:
    """A chore of a node is due (`node` "" means any)."""

    node: str = ""

    @property
    def words(self) -> str:
        """Return it for people: whose chore it is."""
        return self.node or "any node"

    def to_json(self) -> str:
        """Return the payload of the task."""
        return _dump({"node": self.node})

    @classmethod
    def from_json(cls, payload: str) -> Self:
        """Read a payload, or raise SchemaError."""
        return cls(str(_load(payload).get("node", "")))

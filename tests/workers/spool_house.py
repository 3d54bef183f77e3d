"""A node's spool on real files, its ledger, and a clock that can be put forward.

Gives    House, opened by `open_house`; Killed and Dying, for a process that ends at a given step
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailcore.envelope import ContentRef
from mailcore.policy.model import Node, PolicySnapshot
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.spool import SpoolBook
from mailio.shelves import SegmentDirectory
from mailio.spool.opening import Shelf, Spool
from mailio.spool.segments import SegmentSpool
from tests.io.ledger.world import accept, empty, message, query
from tests.support.builders import NODE
from tests.support.fake_sources import FixedPolicy
from workers.engines.sweep import SpoolPorts, sweep_spool

GRACE_S = 900.0
DAY_S = 86400.0
KB = 1024


class Killed(BaseException):
    """The process is gone."""


class Dying:
    """A port that lives for so many more calls of those that change something; with `after` the
    last of them is carried out before the end."""

    CHANGES = frozenset(
        {
            *("count_sweep", "write_mark", "delete", "copy", "spare"),
            *("move_contents", "seal", "note_sweep"),
        }
    )

    def __init__(self, port: Any, left: list[int], *, after: bool) -> None:
        self._port, self._left, self._after = port, left, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        return self._mortal(method) if name in self.CHANGES else method

    def _mortal(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._left[0] < 0:
                raise Killed  # also for what a `finally` would do: the dead do nothing
            self._left[0] -= 1
            is_last = self._left[0] < 0
            if is_last and not self._after:
                raise Killed
            result = method(*args, **kwargs)
            if is_last:
                raise Killed
            return result

        return call


@dataclass
class House:
    """A node with a spool, a ledger, and a clock that can be put forward."""

    directory: Path
    acceptor: Acceptor
    ledger: PgLedger
    book: SpoolBook
    policy: FixedPolicy
    ahead: list[float] = field(default_factory=lambda: [0.0])
    owed: dict[str, bytes] = field(default_factory=dict)

    def wall(self) -> float:
        return time.time() + self.ahead[0]

    def take(self, *contents: bytes, people: int = 1) -> int:
        """Accept messages with these contents in one sealed segment; return its number."""
        with closing(self.spool()) as spool:
            refs = spool.append(contents)
        for ref, content in zip(refs, contents, strict=True):
            start = len(self.owed)
            names = [f"r{start + n}@one.test" for n in range(people)]
            accept(self.acceptor, message(*names, content=ref))
            self.owed |= dict.fromkeys(names, content)
        return refs[0].segment

    def finish(self, *names: str) -> None:
        """End rows as if they had been delivered."""
        for name in names:
            query("DELETE FROM ledger_row WHERE recipient = %s", name)
            del self.owed[name]

    def spool(self) -> Spool:
        return SegmentSpool(self.directory, min_free_bytes=0, wall=self.wall)

    def shelf(self) -> Shelf:
        return SegmentDirectory(self.directory, copy_floor_bytes=0, wall=self.wall)

    def ports(self, shelf: Any, book: Any) -> SpoolPorts:
        return SpoolPorts(NODE, self.policy, shelf, book, GRACE_S)

    async def sweep(self) -> None:
        with closing(self.shelf()) as shelf:
            await sweep_spool(self.ports(shelf, self.book))

    async def sweep_dying(self, steps: int, *, after: bool) -> bool:
        """Sweep with so many steps to live; return whether it was killed."""
        left = [steps]
        with closing(self.shelf()) as shelf:
            ports = self.ports(Dying(shelf, left, after=after), Dying(self.book, left, after=after))
            with suppress(Killed):
                await sweep_spool(ports)
                return False
        return True

    def assert_all_is_there(self) -> None:
        """Every row that is owed a result reads what was accepted for it."""
        columns = "content_segment, content_offset, content_length, content_crc"
        rows = query(f"SELECT recipient, {columns} FROM ledger_row")  # noqa: S608 (constant)
        with closing(self.spool()) as spool:
            read = spool.read_now([ContentRef(*row[1:]) for row in rows])
        assert dict(zip((row[0] for row in rows), read, strict=True)) == self.owed

    def segments(self) -> list[int]:
        with closing(self.shelf()) as shelf:
            return [info.number for info in shelf.inventory().segments]

    def told(self, columns: str) -> tuple[Any, ...]:
        return query(f"SELECT {columns} FROM spool_node")[0]  # noqa: S608 (constants)

    def keep(self, retention_s: float) -> None:
        node = Node(1, NODE, spool_retention_s=retention_s)
        self.policy.snapshot = PolicySnapshot(2, nodes={NODE: node})


@contextmanager
def open_house(directory: Path) -> Iterator[House]:
    """Open a node with an empty spool and an empty ledger."""
    dsn = empty()
    query("TRUNCATE queue_undo, spool_node, spool_sample")
    policy = FixedPolicy(PolicySnapshot(1, nodes={NODE: Node(1, NODE)}))
    sides = Acceptor(dsn), PgLedger(dsn), SpoolBook(dsn, rows_a_time=2)
    yield House(directory, *sides, policy)
    for side in sides:
        side.close()


def bodies(count: int, size: int = 40 * KB) -> list[bytes]:
    """Return contents that differ."""
    return [b"%06d" % n * (size // 6) for n in range(count)]

"""A backup is restored under a process, or while it is down: nothing is sent a second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from mailcore.outcome import RowState, WaitReason
from mailcore.rowfilter import RowFilter
from mailio.ledger import schema
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.outbox import PgOutbox
from mailio.ledger.pool import ConnectionLost
from mailio.ledger.restore import Restores
from mailio.ledger.scan import Meant
from mailio.ledger.upkeep import LedgerUpkeep
from mailio.ledger.verbs import QueueVerbs
from mailio.reconcile import Reconciler
from mailio.witness import Seen, Witness
from tests.io.ledger.backup import Backup
from tests.io.ledger.verbs import through
from tests.io.ledger.world import DISAGREEMENTS, accept, claim_all, ends, message, waits
from tests.support.stack import drop_postgres, postgres_url

STATES = "SELECT recipient, state, reason FROM ledger_row ORDER BY recipient"
ASIDE = (RowState.UNKNOWN.value, "restored")


@pytest.fixture
def backup() -> Iterator[Backup]:
    url = postgres_url()
    schema.migrate(url)
    one = Backup(url)
    yield one
    one.drop()
    drop_postgres(url)


@pytest.fixture
def acceptor(backup: Backup) -> Iterator[Acceptor]:
    side = Acceptor(backup.dsn)
    yield side
    side.close()


@pytest.fixture
def restores(backup: Backup) -> Iterator[Restores]:
    side = Restores(backup.dsn, rows_a_time=2)
    yield side
    side.close()


class Process:
    """One that sends, with the witness of its node."""

    def __init__(self, backup: Backup, directory: Path) -> None:
        self.ledger = PgLedger(backup.dsn, witness=Witness(directory / "w", node="n1"))
        self.number = 0

    async def start(self) -> Process:
        """Open a life."""
        self.number = await self.ledger.register(node="n1", process="d", journal="d")
        return self

    async def beat(self) -> bool:
        """Renew its lease."""
        return await self.ledger.heartbeat(self.number)

    async def claim(self) -> list[str]:
        """Claim what is due; return whose it is. A line that broke is tried once more."""
        try:
            rows = await claim_all(self.ledger, self.number)
        except ConnectionLost:
            rows = await claim_all(self.ledger, self.number)
        return sorted(str(row.recipient) for row in rows)


@pytest.fixture
async def process(backup: Backup, tmp_path: Path) -> Process:
    one = await Process(backup, tmp_path).start()
    assert await one.beat()
    return one


async def test_what_was_sent_since_the_backup_is_not_sent_again(
    backup: Backup, acceptor: Acceptor, process: Process
) -> None:
    accept(acceptor, message("a@one.test"), message("b@one.test"))
    held = await claim_all(process.ledger, process.number, budget=1)
    backup.take()
    assert await process.beat()
    assert await process.claim() == ["b@one.test"]
    await process.ledger.settle(ends([*held, *await process.ledger.rows_by_id([2])]))
    backup.restore()
    assert [row[1] for row in backup.query(STATES)] == [1, 0]
    # Before its next heartbeat, and before anybody has noticed.
    assert await process.claim() == []
    assert not await process.beat()
    await process.start()
    # Its life of before is over, for nobody else may end it.
    assert backup.query("SELECT id FROM ledger_incarnation WHERE ended_at IS NULL") == [
        (process.number,)
    ]
    assert backup.query(STATES) == [("a@one.test", *ASIDE), ("b@one.test", *ASIDE)]
    assert await process.beat()
    assert await process.claim() == []
    accept(acceptor, message("new@one.test"))
    assert await process.claim() == ["new@one.test"]
    assert backup.query(DISAGREEMENTS) == []
    process.ledger.close()


async def test_a_process_that_starts_after_the_restore_notices_by_what_its_node_wrote(
    backup: Backup, acceptor: Acceptor, process: Process, tmp_path: Path, restores: Restores
) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(5)))
    backup.take()
    assert await process.beat()
    process.ledger.close()
    backup.restore()
    later = await Process(backup, tmp_path).start()
    assert await later.claim() == []
    assert restores.count_aside() == 5
    (one,) = restores.found()
    assert (one.rows, one.note) == (5, "2 heartbeats were seen, 1 are known")
    # Nobody notices the same again.
    assert await later.beat()
    later.ledger.close()
    again = await Process(backup, tmp_path).start()
    assert len(restores.found()) == 1
    again.ledger.close()


async def test_a_backup_of_a_ledger_that_stood_still_is_as_good_as_the_ledger(
    backup: Backup, acceptor: Acceptor, process: Process, tmp_path: Path, restores: Restores
) -> None:
    accept(acceptor, message())
    process.ledger.close()
    backup.take()
    backup.restore()
    later = await Process(backup, tmp_path).start()
    assert await later.claim() == ["ann@one.test"]
    assert restores.found() == []
    later.ledger.close()


async def test_the_file_of_another_installation_says_nothing(
    backup: Backup, acceptor: Acceptor, tmp_path: Path, restores: Restores
) -> None:
    Witness(tmp_path / "w", node="n1").note(Seen("another", "n1/1", 99, 1.0))
    accept(acceptor, message())
    one = await Process(backup, tmp_path).start()
    assert await one.claim() == ["ann@one.test"]
    assert restores.found() == []
    one.ledger.close()


async def test_rows_in_every_state_are_set_aside_and_no_chore_touches_them(
    backup: Backup, acceptor: Acceptor, process: Process, restores: Restores
) -> None:
    accept(acceptor, message("0@one.test", lifetime_s=0), message("1@one.test", site=""))
    accept(acceptor, *(message(f"{n}@one.test") for n in range(2, 6)))
    rows = await claim_all(process.ledger, process.number)
    await process.ledger.settle(
        waits(rows[-1:], state=RowState.UNKNOWN, reason=WaitReason.UNKNOWN_OUTCOME)
    )
    await process.ledger.settle(waits(rows[-2:-1]))
    restores.begin("ann", "the backup of Tuesday")
    # Until all are aside, nobody gets any.
    assert await process.claim() == []
    restores.go_on()
    assert [row[1:] for row in backup.query(STATES)] == [ASIDE] * 6
    assert backup.query(DISAGREEMENTS) == []
    chores = LedgerUpkeep(backup.dsn)
    assert chores.select_expired(incarnation=process.number, limit=9) == []
    assert chores.unknown_due(incarnation=process.number, limit=9) == []
    assert chores.reclaim(process.number) == 0
    # What its worker says of a claim from before counts for nothing, unless it is an end.
    await process.ledger.settle(waits(rows[1:2]))
    assert restores.count_aside() == 6
    await process.ledger.settle(ends(rows[1:2]))
    assert restores.count_aside() == 5
    assert await process.ledger.unrouted_domains(limit=9) == []
    assert backup.query(DISAGREEMENTS) == []
    chores.close()
    process.ledger.close()


async def test_a_ledger_from_another_cluster_tells_its_outbox_once_more(
    backup: Backup, acceptor: Acceptor, tmp_path: Path
) -> None:
    accept(acceptor, message("a@one.test"), message("b@one.test"))
    backup.query("UPDATE ledger_outbox SET xid = '9000000000'")
    outbox = PgOutbox(backup.dsn)
    assert outbox.lead("statistics")
    accept(acceptor, message("c@one.test"))
    backup.query(
        "INSERT INTO ledger_cursor (consumer, xid, row_id) VALUES ('statistics', '9000000000', 1)"
    )
    assert outbox.read("statistics", limit=9) == []
    one = await Process(backup, tmp_path).start()
    assert [batch.cursor.row_id for batch in outbox.read("statistics", limit=9)] == [1, 2]
    outbox.close()
    one.ledger.close()


class Known:
    """Stands in for the statistics."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def of_messages(self, message_ids: Sequence[UUID]) -> Sequence[Mapping[str, object]]:
        wanted = {str(one) for one in message_ids}
        return [event for event in self.events if event["message_id"] in wanted]


async def test_what_the_statistics_know_to_be_over_is_ended_and_the_rest_let_go_by_word(
    backup: Backup, acceptor: Acceptor, process: Process, restores: Restores
) -> None:
    accept(acceptor, *(message(f"{n}@one.test", f"{n}@two.test") for n in range(3)))
    restores.begin("ann", "a backup")
    restores.go_on()
    known = Known()
    for recipient, kind in (("0@one.test", "delivered"), ("2@two.test", "bounced")):
        ((message_id, number),) = backup.query(
            "SELECT message_id::text, recipient_no FROM ledger_row WHERE recipient = %s", recipient
        )
        event = {"message_id": message_id, "recipient_no": number, "kind": kind}
        known.events.append({**event, "occurred_ms": 2})
        known.events.append({**event, "kind": "accepted", "occurred_ms": 1})
    reconciler = Reconciler(restores, known, rows_a_step=4)
    for is_dry, left in ((True, 6), (False, 4)):
        ended, after = Counter[str](), 0
        while True:
            step = reconciler.step(after, is_dry=is_dry)
            ended.update(step.ended)
            if step.after is None:
                break
            after = step.after
        assert ended == {"delivered": 1, "bounced": 1}
        assert restores.count_aside() == left
    assert backup.query(DISAGREEMENTS) == []
    assert backup.query("SELECT count(*) FROM ledger_outbox") == [(1,)]
    wanted = RowFilter(
        states=(RowState.UNKNOWN,), reasons=(WaitReason.RESTORED,), domains=("two.test",)
    )
    verbs = QueueVerbs(backup.dsn)
    ((now,),) = backup.query("SELECT clock_timestamp()")
    assert through(Meant(wanted, now, is_late=True), verbs.retry_step).changed == 2
    verbs.close()
    assert await process.claim() == ["0@two.test", "1@two.test"]
    assert restores.count_aside() == 2
    process.ledger.close()

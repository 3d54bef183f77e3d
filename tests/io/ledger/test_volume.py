"""A long queue costs what a short one does: no statement reads more rows than it was asked for."""

from __future__ import annotations

import re
from datetime import datetime

import psycopg2

from mailcore.ports import LaneClaim
from mailio.ledger import delivery_sql, upkeep_sql
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.pool import Profile
from mailio.ledger.upkeep import LedgerUpkeep
from tests.io.ledger import world
from tests.io.ledger.world import accept, ends, message, query

ROWS, LANES = 100_000, 50


def fill() -> None:
    """Put many waiting rows into lanes, as accepts would have."""
    query(
        "INSERT INTO ledger_lane (sender_id, account_id, mail_class, site, waiting, next_due_at)"
        " SELECT 1, 1, 1, 'mx.d' || n || '.test', %s, now() - interval '1 min'"
        " FROM generate_series(1, %s) AS n",
        ROWS // LANES,
        LANES,
    )
    query(
        "INSERT INTO ledger_row (lane_id, recipient_no, due_at, expires_at, message_id,"
        " content_segment, content_offset, content_length, content_crc, recipient, reverse_path,"
        " header_from, message_id_header)"
        " SELECT 1 + n %% %s, 0, now() - interval '1 min' + n * interval '1 us', now() + '1 h',"
        " gen_random_uuid(), n / 1000, 0, 100, 0, n || '@d.test', 'b@from.test', 'from.test', '<x>'"
        " FROM generate_series(1, %s) AS n",
        LANES,
        ROWS,
    )


def rows_read(plan: str) -> int:
    """Return the most rows any scan of the ledger's rows touched, those filtered out included."""
    scans = re.findall(
        r"on ledger_row \w*.*?rows=(\d+) loops=(\d+)(?:(?!->).)*?(?:Removed by Filter: (\d+))?",
        plan,
    )
    return max((int(n) + int(gone or 0)) * int(loops) for n, loops, gone in scans)


async def test_a_hundred_thousand_rows_drain_batch_by_batch(
    dsn: str, acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    # Sessions prepare their plans while the tables are empty, as in a new installation.
    accept(acceptor, message("first@d1.test"))
    await ledger.settle(ends(await ledger.claim([LaneClaim(1, 1)], incarnation=incarnation)))
    query("TRUNCATE ledger_lane RESTART IDENTITY")
    fill()
    lanes = await ledger.due_lanes(limit=1000)
    assert sum(lane.waiting for lane in lanes) == ROWS
    lows: dict[int, datetime] = {}
    total = 0
    while True:
        requests = [LaneClaim(lane.id, 200, lows.get(lane.id)) for lane in lanes]
        rows = await ledger.claim(requests, incarnation=incarnation)
        if not rows:
            break
        lows |= {row.lane_id: row.due_at for row in rows}
        total += await ledger.settle(ends(rows))
    assert total == ROWS
    world.assert_counts_agree()
    upkeep = LedgerUpkeep(dsn)
    assert upkeep.recount_lanes() == 0
    upkeep.close()


def test_claims_and_settles_read_only_what_they_take(dsn: str, incarnation: int) -> None:
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")  # an empty table known to be empty: the worst to plan on
        cursor.execute(Profile.HOT.value)
        cursor.execute(f"PREPARE claim AS {delivery_sql.CLAIM}")
        cursor.execute(f"PREPARE settle AS {delivery_sql.SETTLE}")
        claim = (
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE claim ("
            "'{1,2,3,4,5,6,7,8,9,10}', ('{' || repeat('-infinity,', 9) || '-infinity}')::text"
            f"::timestamptz[], '{{10,10,10,10,10,10,10,10,10,10}}', {incarnation}, 'n1/1', 3)"
        )
        settle = (
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)"
            " EXECUTE settle ('{}', %s, %s, %s, %s, %s, %s, %s, %s, 1, 'x')"
        )
        cursor.execute(claim)  # planned now, while there is nothing
        cursor.execute(settle, ("{}",) * 8)
        cursor.execute("INSERT INTO ledger_witness (name, beats) VALUES ('n1/1', 3)")
        fill()
        cursor.execute(claim)
        plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "Seq Scan" not in plan
        assert rows_read(plan) <= 110, plan
        for _ in range(4):
            cursor.execute(claim)
        cursor.execute(
            "SELECT array_agg(id)::text FROM"
            " (SELECT id FROM ledger_row WHERE state = 1 ORDER BY id LIMIT 100) AS oldest"
        )
        ids = (cursor.fetchone() or ("",))[0]
        ones = "{" + ",".join(["1"] * 100) + "}"
        reasons = "{" + ",".join(["retry"] * 100) + "}"
        cursor.execute(
            settle,
            (ids, ones, ones, reasons, reasons, ones, ones, ones.replace("1", "0")),
        )
        plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "Seq Scan" not in plan
        assert rows_read(plan) <= 110, plan
    connection.close()


async def test_a_look_for_expired_rows_does_not_read_the_others(
    dsn: str, incarnation: int, ledger: PgLedger
) -> None:
    fill()
    # One of a hundred, everywhere in the table.
    query("UPDATE ledger_row SET expires_at = now() - interval '1 min' WHERE id % 100 = 0")
    upkeep = LedgerUpkeep(dsn)
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(Profile.CHORE.value)
        cursor.execute(f"PREPARE expired AS {upkeep_sql.SELECT_EXPIRED}")
        while rows := upkeep.select_expired(incarnation=incarnation, limit=400):
            await ledger.settle(ends(rows))
        cursor.execute(
            f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE expired ({incarnation}, 400)"
        )
        plan = "\n".join(line for (line,) in cursor.fetchall())
    connection.close()
    upkeep.close()
    assert query("SELECT count(*) FROM ledger_row") == [(ROWS - ROWS // 100,)]
    assert "Removed by" not in plan, plan
    assert rows_read(plan) == 0, plan

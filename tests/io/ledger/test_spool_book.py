"""What the ledger knows about content: what is alive, who points where, what nodes told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailcore.envelope import ContentRef
from mailcore.ports import SpoolLedger
from mailcore.spool import DiskSpace, Forecast, LiveSegment, SweepFigures
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.spool import SpoolBook
from tests.io.ledger.world import Held, accept, assert_counts_agree, claim_all, message, query
from tests.io.ledger.world import ends as settlement_that_ends

POINTERS = "SELECT content_segment, content_offset FROM {} ORDER BY id"
UNDO = """
INSERT INTO queue_undo (
    job_id, row_id, sender_id, account_id, campaign_id, mail_class, site, tls_need, isp_id, state,
    recipient_no, attempt, claim_no, due_at, accepted_at, expires_at, message_id, content_segment,
    content_offset, content_length, content_crc, recipient, reverse_path, header_from,
    message_id_header, custom, reason, last_reply)
SELECT 1, id, 1, 1, 0, 1, '', 0, 0, 0, recipient_no, attempt, claim_no, due_at, accepted_at,
       expires_at, message_id, content_segment, content_offset, content_length, content_crc,
       recipient, reverse_path, header_from, message_id_header, custom, reason, last_reply
  FROM ledger_row {}
"""


@pytest.fixture
def book(dsn: str) -> Iterator[SpoolBook]:
    query("TRUNCATE queue_undo, spool_node, spool_sample")
    side = SpoolBook(dsn, rows_a_time=3)
    yield side
    side.close()


def at(offset: int, *, segment: int = 4096, length: int = 100) -> ContentRef:
    return ContentRef(segment, offset, length, 7)


def test_it_is_what_the_engines_ask_for(book: SpoolBook) -> None:
    port: SpoolLedger = book
    assert port.live_segments([]) == []
    assert port.live_segments([1, 2]) == []


def test_shared_content_counts_once_and_purged_rows_keep_it_alive(
    acceptor: Acceptor, book: SpoolBook
) -> None:
    people = [f"{n}@one.test" for n in range(5)]
    accept(acceptor, message(*people, content=at(24)), message(content=at(132)))
    accept(acceptor, message(content=at(24, segment=2**60)))
    query(UNDO.format("WHERE content_segment = 4096"))
    query("DELETE FROM ledger_row WHERE content_offset = 132")
    assert book.live_segments([1, 4096]) == [LiveSegment(4096, 2, 216, rows=5, undos=6)]
    assert book.live_contents(4096) == [at(24), at(132)]
    assert {live.number for live in book.live_segments([*range(500), 2**60])} == {2**60}


async def test_all_who_share_a_content_move_together_and_others_stay(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, book: SpoolBook
) -> None:
    people = [f"{n}@one.test" for n in range(10)]
    accept(acceptor, message(*people, content=at(24)), message(content=at(132)))
    query(UNDO.format(""))
    leased = await claim_all(ledger, incarnation)
    assert book.move_contents([(at(24), at(48, segment=9))]) == 20
    assert query(POINTERS.format("ledger_row")) == [(9, 48)] * 10 + [(4096, 132)]
    assert query(POINTERS.format("queue_undo")) == [(9, 48)] * 10 + [(4096, 132)]
    # Who had claimed a row settles it as if nothing had been moved.
    assert await ledger.settle(settlement_that_ends(leased)) == 11
    assert_counts_agree()


def test_a_move_sent_again_moves_nothing_and_takes_nothing_back(
    acceptor: Acceptor, book: SpoolBook
) -> None:
    accept(acceptor, message(content=at(24)))
    assert book.move_contents([(at(24), at(48, segment=9))]) == 1
    assert book.move_contents([(at(24), at(96, segment=10))]) == 0
    assert query(POINTERS.format("ledger_row")) == [(9, 48)]
    assert book.move_contents([]) == 0


def test_a_locked_row_keeps_its_pointer_and_nobody_waits(
    acceptor: Acceptor, book: SpoolBook
) -> None:
    accept(acceptor, message("a@one.test", "b@one.test", content=at(24)))
    held = Held("SELECT FROM ledger_row WHERE recipient = 'a@one.test' FOR UPDATE")
    assert book.move_contents([(at(24), at(48, segment=9))]) == 1
    held.release()
    assert query(POINTERS.format("ledger_row")) == [(4096, 24), (9, 48)]
    assert [live.number for live in book.live_segments([9, 4096])] in ([9, 4096], [4096, 9])


# --- what nodes tell ------------------------------------------------------------------------------

SPACE = DiskSpace(1000, 400, 50, 40)
SWEEP = SweepFigures(
    segments=2,
    size_bytes=300,
    live_bytes=20,
    kept={"rows": (2, 300)},
    oldest_ms=1_700_000_000_000,
    oldest_keeper="rows",
    foreign_count=1,
    foreign_names=["caf\\xe9 <b>"],
    retention_s=60.0,
    deleted=3,
    deleted_bytes=900,
    compacted=1,
    copied_bytes=20,
    moved_rows=2,
)


def test_one_sample_a_minute_is_kept_and_those_of_the_last_hour_told(book: SpoolBook) -> None:
    query(
        "INSERT INTO spool_sample SELECT 'n1', date_trunc('minute', now()) - n * interval '1 min',"
        " 100 + n, 5 FROM generate_series(1, 90) n"
    )
    query("INSERT INTO spool_sample VALUES ('n2', now(), 1, 1)")
    told = book.note_sample("n1", SPACE)
    assert len(told) in (61, 62)  # the first minute of the hour may just be leaving
    assert (told[-1].free_bytes, told[-1].free_inodes) == (400, 40)
    assert told[0].age_s > 3500
    book.note_sample("n1", DiskSpace(1000, 399, 50, 40))
    assert query("SELECT count(*) <= 92 FROM spool_sample WHERE node = 'n1'") == [(True,)]


def test_disk_and_sweep_stand_in_one_row_and_sums_grow(book: SpoolBook) -> None:
    book.note_disk("n1", SPACE, Forecast(-1.5, None), warn_bytes=9, stop_bytes=8)
    book.note_sweep("n1", SWEEP)
    book.note_sweep("n1", SWEEP)
    book.note_disk("n1", SPACE, Forecast(2.5, 3.0), warn_bytes=9, stop_bytes=8)
    columns = "growth, hours_left, free_inodes, deleted, deleted_all, compacted_all, kept"
    told = query(f"SELECT {columns}, foreign_names FROM spool_node")  # noqa: S608 (constant)
    assert told == [(2.5, 3.0, 40, 3, 6, 2, {"rows": [2, 300]}, ["caf\\xe9 <b>"])]


def test_an_empty_spool_has_no_oldest_content(book: SpoolBook) -> None:
    book.note_sweep("n1", SweepFigures(0, 0, 0, {}, None, "", 0, []))
    assert query("SELECT oldest_at, oldest_keeper FROM spool_node") == [(None, "")]


def test_samples_and_nodes_are_forgotten_after_a_week(book: SpoolBook) -> None:
    book.note_disk("gone", SPACE, Forecast(None, None), warn_bytes=0, stop_bytes=0)
    query("UPDATE spool_node SET measured_at = now() - interval '8 days'")
    book.note_sweep("here", SWEEP)
    query("INSERT INTO spool_sample VALUES ('gone', now() - interval '8 days', 1, 1)")
    book.prune()
    assert query("SELECT node FROM spool_node") == [("here",)]
    assert query("SELECT count(*) FROM spool_sample") == [(0,)]

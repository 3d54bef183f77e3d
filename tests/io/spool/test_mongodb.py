"""What only a database has: a server that goes away, writers that stand still, limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest

from mailcore.envelope import ContentRef
from mailcore.ports import StoreFull, StoreUnavailable
from mailio.spool.mongo_records import CHUNK_BYTES, KEEP, keys_of
from mailio.spool.mongo_store import LineLost, MongoStore, describe, ping
from mailio.spool.mongodb import ABANDONED_S, SURE_S, TOUCH_S
from tests.io.spool.kinds import LONG_S, Mongo
from tests.support.mongo.double import Double

ROOT = Path(__file__).resolve().parents[3]
NO_PRIMARY = {"ok": 0.0, "code": 10107, "errmsg": "not primary"}
FULL = {"ok": 0.0, "code": 14031, "errmsg": "Cannot insert: available disk space is too low"}
SOON = {"serverSelectionTimeoutMS": 50, "connectTimeoutMS": 500, "socketTimeoutMS": 500}


@pytest.fixture
def ours(double: Double) -> Iterator[Mongo]:
    with ExitStack() as stack:
        yield Mongo(double.url(), stack)


# --- what is asked of the server ------------------------------------------------------------------


def test_every_write_is_acknowledged_by_a_majority_with_its_journal(
    double: Double, ours: Mongo
) -> None:
    spool, shelf = ours.spool(owner=lambda: "ours"), ours.shelf()
    spool.append([b"x"])
    spool.seal()
    place = shelf.inventory().segments[0].number
    shelf.spare(place, age_s=1.0)
    shelf.inventory()
    shelf.delete([place])
    writes = [
        command
        for command in double.commands
        if next(iter(command)) in ("insert", "update", "delete", "findAndModify")
    ]
    assert len(writes) >= 6
    for command in writes:
        assert command["writeConcern"] == {"w": "majority", "j": True, "wtimeout": 10_000}


def test_the_url_cannot_make_a_write_less_durable(double: Double) -> None:
    with ExitStack() as stack:
        spool = Mongo(f"{double.url()}?w=0&journal=false", stack).spool()
        spool.append([b"x"])
    (insert,) = [one for one in double.commands if one.get("insert") == "contents"]
    assert insert["writeConcern"]["w"] == "majority"


def test_a_batch_is_one_insert_and_one_question(double: Double, ours: Mongo) -> None:
    spool = ours.spool()
    spool.append([b"first"])
    before = len(double.commands)
    refs = spool.append([b"%d" % number for number in range(500)])
    spool.read_now(refs)
    assert [next(iter(one)) for one in double.commands[before:]] == ["insert", "find"]


def test_content_is_cut_into_documents_that_the_reference_alone_finds(
    double: Double, ours: Mongo
) -> None:
    spool = ours.spool()
    sizes = [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 0]
    refs = spool.append([b"x" * size for size in sizes])
    assert [len(keys_of(ref)) for ref in refs] == [1, 1, 2, 1]
    assert set(double.collection("contents")) == {key for ref in refs for key in keys_of(ref)}


def test_documents_go_by_themselves_only_long_after_any_mail(double: Double, ours: Mongo) -> None:
    ours.spool().append([b"x"])
    made = [one for one in double.commands if next(iter(one)) == "createIndexes"]
    assert [one["createIndexes"] for one in made] == ["contents", "segments"]
    assert all(one["indexes"][0]["expireAfterSeconds"] == 0 for one in made)
    (document,) = double.collection("contents").values()
    assert timedelta(0) <= double.now() + KEEP - document["gone_at"] < timedelta(minutes=5)
    assert timedelta(days=2 * 366) < KEEP


# --- the server goes away -------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_told_in_bounded_time(double: Double) -> None:
    url = double.url()
    double.stop()
    with closing(MongoStore(url, times_ms=SOON)) as store:
        for ask in (store.now, store.room, store.mark, store.prepare):
            with pytest.raises(StoreUnavailable) as caught:
                ask()
            assert (caught.value.store, type(caught.value)) == ("spool", StoreUnavailable)
            assert len(caught.value.reason) < 320
    for look in (ping, describe):
        with pytest.raises(StoreUnavailable):
            look(url, timeout_s=0.05)


def test_a_server_that_does_not_answer_is_told_in_bounded_time(double: Double) -> None:
    double.start_silence()
    try:
        with (
            closing(MongoStore(double.url(), times_ms=SOON)) as store,
            pytest.raises(StoreUnavailable),
        ):
            store.mark()
    finally:
        double.end_silence()


def test_a_restarted_server_is_used_again_at_once(double: Double, ours: Mongo) -> None:
    spool = ours.spool()
    (first,) = spool.append([b"before"])
    for number in range(3):
        double.stop()
        double.start()
        refs = spool.append([b"after %d" % number])
        assert spool.read_now([first, *refs]) == [b"before", b"after %d" % number]


def test_what_an_error_left_half_written_no_reference_names(double: Double, ours: Mongo) -> None:
    spool = ours.spool()
    (kept,) = spool.append([b"kept"])
    double.script("insert", NO_PRIMARY)
    (again,) = spool.append([b"again"])  # another server leads: once more, in a new segment
    assert again.segment > kept.segment
    double.script("insert", {"ok": 0.0, "code": 1, "errmsg": "an internal error"})
    with pytest.raises(StoreUnavailable, match="an internal error"):
        spool.append([b"lost"])
    (after,) = spool.append([b"after"])
    assert after.segment > again.segment
    assert spool.read_now([kept, again, after]) == [b"kept", b"again", b"after"]


def test_a_line_lost_is_told_apart(double: Double) -> None:
    with closing(MongoStore(double.url())) as store:
        double.script("find", NO_PRIMARY)
        double.script("find", NO_PRIMARY)
        with pytest.raises(LineLost):
            store.mark()


@pytest.mark.parametrize(
    "answer",
    [
        FULL,
        {"ok": 0.0, "code": 8000, "errmsg": "you are over your space quota"},
        {"ok": 1.0, "n": 0, "writeErrors": [{"index": 0, "code": 14031, "errmsg": "full"}]},
    ],
)
def test_a_server_without_room_is_full(
    double: Double, ours: Mongo, answer: dict[str, object]
) -> None:
    spool = ours.spool()
    spool.append([b"x"])
    double.script("insert", answer)
    with pytest.raises(StoreFull):
        spool.append([b"y"])


def test_a_majority_that_does_not_acknowledge_is_no_success(double: Double, ours: Mongo) -> None:
    spool = ours.spool()
    spool.append([b"x"])
    error = {"code": 64, "errmsg": "waiting for replication timed out"}
    double.script("insert", {"ok": 1.0, "n": 1, "writeConcernError": error})
    with pytest.raises(StoreUnavailable, match="replication timed out"):
        spool.append([b"y"])


def test_room_is_asked_now_and_then_and_of_each_shard(double: Double, ours: Mongo) -> None:
    now = [0.0]
    spool = ours.spool(min_free_bytes=1000, monotonic=lambda: now[0])
    spool.append([b"x"])
    double.free_bytes = 500
    spool.append([b"y"])
    now[0] = 11.0
    with pytest.raises(StoreFull):
        spool.append([b"z"])
    double.free_bytes = None  # it does not tell: then its own refusal is what there is
    spool.append([b"z"])
    used = {"a": 1.0, "b": 8.0, "c": 3.0}
    shards = {name: {"fsTotalSize": 9.0, "fsUsedSize": size} for name, size in used.items()}
    double.script("dbStats", {"ok": 1.0, "raw": shards})
    assert ours.shelf().space().free_bytes == 1
    with pytest.raises(StoreUnavailable, match="dbStats"):
        ours.shelf().space()


# --- writers that stand still ---------------------------------------------------------------------


def test_a_segment_whose_writer_is_gone_is_sealed_with_its_real_size(mongo: Mongo) -> None:
    spool, shelf = mongo.spool(), mongo.shelf()
    refs = spool.append([b"x" * 1000, b"y" * 10])
    assert [info.is_sealed for info in shelf.inventory().segments] == [False]
    mongo.age_all()
    (info,) = shelf.inventory().segments
    assert (info.is_sealed, info.size_bytes) == (True, 1010 + 16)
    assert info.age_s > LONG_S - 1000
    assert list(shelf.delete([info.number])) == [refs[0].segment]
    assert spool.read_now(refs) == [None, None]
    assert list(mongo.store().contents.find()) == []


def test_who_stood_still_finds_the_segment_taken_away_and_opens_another(mongo: Mongo) -> None:
    now = [0.0]
    spool, shelf = mongo.spool(monotonic=lambda: now[0]), mongo.shelf()
    (old,) = spool.append([b"old"])
    now[0] = TOUCH_S - 1
    assert spool.append([b"more"])[0].segment == old.segment
    mongo.age_all()
    shelf.delete([info.number for info in shelf.inventory().segments])
    now[0] = 1000.0
    (new,) = spool.append([b"new"])
    assert new.segment > old.segment
    assert spool.read_now([old, new]) == [None, b"new"]


def test_who_writes_is_never_taken_for_gone(mongo: Mongo) -> None:
    now = [0.0]
    spool, shelf = mongo.spool(monotonic=lambda: now[0]), mongo.shelf()
    (first,) = spool.append([b"first"])
    mongo.age_all()
    now[0] = TOUCH_S
    (second,) = spool.append([b"second"])
    assert second.segment == first.segment
    (info,) = shelf.inventory().segments
    assert (info.is_sealed, info.age_s < 1000.0) == (False, True)
    assert TOUCH_S + SURE_S < ABANDONED_S


def test_content_deleted_while_its_writer_stood_still_is_stored_again(
    mongo: Mongo, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    spool, shelf = mongo.spool(monotonic=lambda: now[0]), mongo.shelf()
    with spool.holding():
        refs = spool.append([b"one", b"two"])
        mongo.age_all()  # the process is stopped for long, with its rows not written yet
        assert list(shelf.delete([i.number for i in shelf.inventory().segments])) == [
            refs[0].segment
        ]
        assert spool.read_now(refs) == [None, None]
        now[0] = 10_000.0
    assert spool.read_now(refs) == [b"one", b"two"]
    assert "stored again" in caplog.text
    (info,) = shelf.inventory().segments
    assert (info.number, info.is_sealed, info.age_s < 1000.0) == (refs[0].segment, True, True)
    assert list(shelf.delete([refs[0].segment])) == [refs[0].segment]
    assert spool.read_now(refs) == [None, None]


def test_a_deletion_under_way_leaves_what_was_stored_again(mongo: Mongo) -> None:
    now = [0.0]
    spool, store = mongo.spool(monotonic=lambda: now[0]), mongo.store()
    with spool.holding():
        (ref,) = spool.append([b"content"])
        segment = {"_id": ref.segment}
        store.segments.update_one(segment, {"$set": {"open": False, "dying": True}})
        now[0] = 10_000.0
    store.contents.delete_many({"life": {"$lte": 0}})  # what the deleter still does
    store.segments.delete_one({**segment, "dying": True})
    assert spool.read_now([ref]) == [b"content"]
    assert [info.number for info in mongo.shelf().inventory().segments] == [ref.segment]


def test_what_was_touched_since_it_was_listed_is_not_deleted(mongo: Mongo) -> None:
    now = [0.0]
    spool, shelf = mongo.spool(monotonic=lambda: now[0]), mongo.shelf()
    with spool.holding():
        (ref,) = spool.append([b"content"])
        mongo.age_all()
        (info,) = shelf.inventory().segments
        assert info.is_sealed
        now[0] = SURE_S + 1
    assert list(shelf.delete([ref.segment])) == []
    assert spool.read_now([ref]) == [b"content"]


def test_a_deletion_that_was_cut_off_is_taken_up(mongo: Mongo) -> None:
    spool, shelf, store = mongo.spool(), mongo.shelf(), mongo.store()
    (ref,) = spool.append([b"content"])
    spool.seal()
    store.segments.update_one({"_id": ref.segment}, {"$set": {"dying": True}})
    numbers = [info.number for info in shelf.inventory().segments]
    assert list(shelf.delete(numbers)) == numbers == [ref.segment]
    assert list(store.contents.find()) == []


def test_what_is_none_of_ours_is_told_and_left(mongo: Mongo) -> None:
    mongo.spool().append([b"x"])
    mongo.store().segments.insert_one({"_id": "notes", "text": "of somebody else"})
    shelf = mongo.shelf()
    found = shelf.inventory()
    assert (len(found.segments), list(found.foreign)) == (1, ["notes"])
    mongo.store()._marks.insert_one({"_id": "mark", "installation": "theirs"})
    mark = shelf.mark()
    assert mark is not None
    assert mark.installation == ""


def test_what_was_acknowledged_before_a_kill_reads_back(mongo: Mongo) -> None:
    code = """
        import os, sys, threading
        from mailio.spool.mongo_store import MongoStore
        from mailio.spool.mongodb import MongoSpool
        spool = MongoSpool(MongoStore(sys.argv[1]), min_free_bytes=0, max_segment_bytes=200_000)
        def work():
            while True:
                contents = [os.urandom(3000) for _ in range(3)]
                for ref in spool.append(contents):
                    os.write(1, f"{ref.segment} {ref.offset} {ref.length} {ref.crc}\\n".encode())
        for _ in range(4):
            threading.Thread(target=work).start()
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), mongo.url],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"},
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(200)]
    os.kill(writer.pid, signal.SIGKILL)
    lines += [line for line in writer.communicate()[0].splitlines() if len(line.split()) == 4]
    refs = [ContentRef(*(int(number) for number in line.split())) for line in lines[:-1]]
    assert len({(ref.segment, ref.offset) for ref in refs}) == len(refs) >= 199
    assert None not in mongo.spool().read_now(refs)


def test_no_client_of_the_parent_is_used_by_a_child(double: Double) -> None:
    with closing(MongoStore(double.url())) as store:
        assert store.mark() is None
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            client = store._client
            store.mark()
            os._exit(0 if store._client is not client else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.mark() is None

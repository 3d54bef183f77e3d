"""Content is durable when it is acknowledged, and what is damaged is never handed out."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailcore.envelope import ContentRef
from mailcore.ports import StoreFull, StoreUnavailable
from mailio.spool.files import WRITERS, segment_path, take_inventory
from mailio.spool.segments import SegmentSpool

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SegmentSpool]:
    with contextlib.closing(SegmentSpool(tmp_path / "spool", min_free_bytes=0)) as spool:
        yield spool


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"},
    )


async def test_what_was_appended_reads_back_in_order(spool: SegmentSpool) -> None:
    contents = [b"", b"one\r\n", os.urandom(70_000), b"four"]
    refs = spool.append(contents)
    assert await spool.read_many(refs) == contents
    assert list(await spool.read_many(refs[::-1])) == contents[::-1]
    assert [ref.length for ref in refs] == [0, 5, 70_000, 4]


def test_appending_nothing_makes_no_file(spool: SegmentSpool, tmp_path: Path) -> None:
    assert list(spool.append([])) == []
    assert not (tmp_path / "spool").exists()
    assert spool.segments() == []


def test_a_batch_larger_than_one_vectored_write_is_written_whole(spool: SegmentSpool) -> None:
    contents = [b"%d" % number for number in range(1500)]
    assert spool.read_now(spool.append(contents)) == contents


def test_a_reference_that_does_not_match_its_record_reads_as_none(spool: SegmentSpool) -> None:
    (ref,) = spool.append([b"content"])
    wrong = [
        ContentRef(ref.segment, ref.offset, ref.length, ref.crc ^ 1),
        ContentRef(ref.segment, ref.offset, ref.length - 1, ref.crc),
        ContentRef(ref.segment, ref.offset + 1, ref.length, ref.crc),
        ContentRef(ref.segment, 2**40, ref.length, ref.crc),
        ContentRef(ref.segment + 1, ref.offset, ref.length, ref.crc),
    ]
    assert spool.read_now([*wrong, ref]) == [None] * 5 + [b"content"]


def test_a_flipped_bit_on_disk_reads_as_none(spool: SegmentSpool, tmp_path: Path) -> None:
    refs = spool.append([b"first", b"second"])
    path = segment_path(tmp_path / "spool", refs[0].segment)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"first")] ^= 0x20
    path.write_bytes(raw)
    assert spool.read_now(refs) == [None, b"second"]


def test_segment_numbers_carry_the_time_and_the_writer(tmp_path: Path) -> None:
    with contextlib.closing(
        SegmentSpool(tmp_path, writer=7, min_free_bytes=0, wall=lambda: 1_700_000_000.25)
    ) as spool:
        (ref,) = spool.append([b"x"])
    assert divmod(ref.segment, WRITERS) == (1_700_000_000_250, 7)


def test_two_writers_of_the_same_number_and_time_never_share_a_segment(tmp_path: Path) -> None:
    spools = [
        SegmentSpool(tmp_path, writer=1, min_free_bytes=0, wall=lambda: 1_700_000_000.0)
        for _ in range(3)
    ]
    refs = [spool.append([b"%d" % number])[0] for number, spool in enumerate(spools)]
    assert len({ref.segment for ref in refs}) == 3
    assert spools[0].read_now(refs) == [b"0", b"1", b"2"]
    for spool in spools:
        spool.close()


def test_a_full_or_old_segment_is_followed_by_a_new_one(tmp_path: Path) -> None:
    now = [0.0]
    spool = SegmentSpool(
        tmp_path,
        min_free_bytes=0,
        max_segment_bytes=1000,
        max_segment_age_s=600,
        monotonic=lambda: now[0],
    )
    first, second = spool.append([b"a" * 600, b"b" * 600])
    (third,) = spool.append([b"c"])
    (fourth,) = spool.append([b"d"])
    now[0] = 601
    (fifth,) = spool.append([b"e"])
    assert first.segment == second.segment < third.segment == fourth.segment < fifth.segment
    assert spool.read_now([first, fourth, fifth]) == [b"a" * 600, b"d", b"e"]
    sealed = {info.number: info.is_sealed for info in spool.segments()}
    assert sealed == {first.segment: True, third.segment: True, fifth.segment: False}
    spool.close()


def test_only_sealed_segments_are_deleted(spool: SegmentSpool, tmp_path: Path) -> None:
    (old,) = spool.append([b"old"])
    spool.seal()
    (new,) = spool.append([b"new"])
    assert spool.read_now([old]) == [b"old"]
    assert spool.delete([old.segment, new.segment, 12345]) == [old.segment]
    assert spool.read_now([old, new]) == [None, b"new"]
    assert [info.number for info in spool.segments()] == [new.segment]


def test_a_segment_of_another_process_is_sealed_only_once_that_process_is_gone(
    tmp_path: Path,
) -> None:
    code = """
        import sys, pathlib
        from mailio.spool.segments import SegmentSpool
        (ref,) = SegmentSpool(pathlib.Path(sys.argv[1]), min_free_bytes=0).append([b"theirs"])
        print(ref.segment, flush=True)
        sys.stdin.read()
    """
    reader = SegmentSpool(tmp_path)
    writer = start_python(code, str(tmp_path))
    assert writer.stdout is not None
    number = int(writer.stdout.readline())
    assert [(i.number, i.is_sealed) for i in reader.segments()] == [(number, False)]
    assert reader.delete([number]) == []
    writer.kill()
    writer.communicate()
    assert [(i.number, i.is_sealed) for i in reader.segments()] == [(number, True)]
    reader.close()


def test_a_file_without_a_header_is_not_sealed_while_it_may_be_coming_up(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    number = int(now * 1000) * WRITERS
    segment_path(tmp_path, number).touch()
    os.utime(segment_path(tmp_path, number), (now, now))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "no-number.seg").touch()
    young = SegmentSpool(tmp_path, wall=lambda: now + 5)
    old = SegmentSpool(tmp_path, wall=lambda: now + 120)
    assert [info.is_sealed for info in young.segments()] == [False]
    assert [info.is_sealed for info in old.segments()] == [True]


def test_the_age_of_a_segment_counts_from_its_last_write(tmp_path: Path) -> None:
    now = 1_700_000_000
    spool = SegmentSpool(tmp_path, min_free_bytes=0, wall=lambda: now - 1000)
    (ref,) = spool.append([b"x"])
    spool.close()
    os.utime(segment_path(tmp_path, ref.segment), (now, now))
    later = SegmentSpool(tmp_path, wall=lambda: now + 100)
    (info,) = later.segments()
    assert (info.age_s, info.is_sealed) == (100.0, True)
    later.close()


def test_too_little_free_space_refuses_before_anything_is_written(tmp_path: Path) -> None:
    with (
        contextlib.closing(SegmentSpool(tmp_path, min_free_bytes=2**62)) as spool,
        pytest.raises(StoreFull, match="MB of disk are left"),
    ):
        spool.append([b"x"])


def test_what_must_stay_free_is_asked_before_each_write(tmp_path: Path) -> None:
    wanted = [0]
    with contextlib.closing(SegmentSpool(tmp_path, min_free_bytes=lambda: wanted[0])) as spool:
        (first,) = spool.append([b"before"])
        wanted[0] = 2**62
        with pytest.raises(StoreFull):
            spool.append([b"refused"])
        wanted[0] = 0
        (second,) = spool.append([b"after"])
        assert spool.read_now([first, second]) == [b"before", b"after"]
        assert first.segment == second.segment


def test_a_writer_with_nothing_to_write_seals_its_segment(tmp_path: Path) -> None:
    spool = SegmentSpool(tmp_path, min_free_bytes=0, max_idle_s=0.05)
    (first,) = spool.append([b"x"])
    while not spool.segments()[0].is_sealed:
        threading.Event().wait(0.01)
    (second,) = spool.append([b"y"])
    assert second.segment > first.segment
    assert spool.read_now([first, second]) == [b"x", b"y"]
    while not spool.segments()[1].is_sealed:
        threading.Event().wait(0.01)
    spool.close()


def test_what_is_held_is_not_sealed_for_anybody_before_the_end(tmp_path: Path) -> None:
    spool = SegmentSpool(tmp_path, min_free_bytes=0, wall=lambda: 1e9)
    with spool.holding():
        refs = [*spool.append([b"one"])]
        spool.seal()
        refs += spool.append([b"two"])
        spool.seal()
        numbers = [info.number for info in spool.segments()]
        assert len(numbers) == 2
        assert spool.delete(numbers) == []
        assert spool.read_now(refs) == [b"one", b"two"]
        for number in numbers:
            os.utime(segment_path(tmp_path, number), (1, 1))
    # The grace time begins when the lock goes.
    found = take_inventory(tmp_path, now=time.time()).segments
    assert [(info.is_sealed, info.age_s < 60) for info in found] == [(True, True)] * 2
    assert spool.delete(numbers) == numbers
    spool.close()


def test_a_write_error_reaches_all_who_wait_and_the_next_append_starts_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = SegmentSpool(tmp_path, min_free_bytes=0)
    (kept,) = spool.append([b"kept"])
    real = os.fdatasync

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    errors: list[StoreUnavailable] = []

    def append() -> None:
        try:
            spool.append([b"lost"])
        except StoreUnavailable as exc:
            errors.append(exc)

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(os, "fdatasync", real)
    assert [(e.store, "No space left" in e.reason) for e in errors] == [("spool", True)] * 4
    assert b"lost" not in segment_path(tmp_path, kept.segment).read_bytes()
    (after,) = spool.append([b"after"])
    assert after.segment > kept.segment
    assert spool.read_now([kept, after]) == [b"kept", b"after"]
    spool.close()


def test_a_forked_child_writes_to_a_segment_of_its_own(spool: SegmentSpool) -> None:
    (mine,) = spool.append([b"parent"])
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        (ref,) = spool.append([b"child"])
        os.write(write_end, json.dumps([ref.segment, ref.offset, ref.length, ref.crc]).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        theirs = ContentRef(*json.load(pipe))
    assert os.waitpid(child, 0)[1] == 0
    (later,) = spool.append([b"parent again"])
    assert mine.segment == later.segment != theirs.segment
    assert spool.read_now([mine, theirs, later]) == [b"parent", b"child", b"parent again"]


def test_a_child_forked_while_a_thread_holds_the_locks_can_write(spool: SegmentSpool) -> None:
    spool.append([b"parent"])
    with spool._segment_lock, spool._files_lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if spool.read_now(spool.append([b"child"])) == [b"child"] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_was_acknowledged_before_a_kill_reads_back(tmp_path: Path) -> None:
    code = """
        import sys, os, pathlib, threading
        from mailio.spool.segments import SegmentSpool
        spool = SegmentSpool(pathlib.Path(sys.argv[1]), min_free_bytes=0, max_segment_bytes=200_000)
        def work():
            while True:
                contents = [os.urandom(3000) for _ in range(3)]
                for ref, content in zip(spool.append(contents), contents):
                    os.write(1, f"{ref.segment} {ref.offset} {ref.length} {ref.crc}\\n".encode())
        for _ in range(4):
            threading.Thread(target=work).start()
    """
    writer = start_python(code, str(tmp_path))
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(400)]
    os.kill(writer.pid, signal.SIGKILL)
    lines += [line for line in writer.communicate()[0].splitlines() if len(line.split()) == 4]
    refs = [ContentRef(*(int(number) for number in line.split())) for line in lines[:-1]]
    assert len(refs) >= 399
    assert len({(ref.segment, ref.offset) for ref in refs}) == len(refs)
    with contextlib.closing(SegmentSpool(tmp_path)) as reader:
        assert None not in reader.read_now(refs)
        assert all(info.is_sealed for info in reader.segments())


def test_few_files_stay_open_and_none_for_long(tmp_path: Path) -> None:
    now = [0.0]
    spool = SegmentSpool(
        tmp_path,
        min_free_bytes=0,
        max_segment_bytes=1,
        max_open_files=3,
        reuse_file_s=100,
        monotonic=lambda: now[0],
    )
    refs = [spool.append([b"%d" % number])[0] for number in range(10)]
    assert spool.read_now(refs) == [b"%d" % number for number in range(10)]
    assert len(spool._files) <= 4
    now[0] = 101
    assert spool.read_now(refs[:1]) == [b"0"]
    assert list(spool._files) == [refs[0].segment]
    spool.close()


async def test_a_segment_that_was_gone_is_read_once_it_is_put_back(
    spool: SegmentSpool, tmp_path: Path
) -> None:
    (ref,) = spool.append([b"content"])
    (path,) = (tmp_path / "spool").glob("*.seg")
    away = path.rename(tmp_path / "elsewhere")
    # A process that had not opened it before.
    with contextlib.closing(SegmentSpool(tmp_path / "spool", min_free_bytes=0)) as other:
        assert await other.read_many([ref]) == [None]
        away.rename(path)
        assert await other.read_many([ref]) == [b"content"]

"""What the port promises, asked of every kind of spool."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mailcore.envelope import ContentRef
from mailcore.ports import StoreFull, StoreUnavailable
from mailcore.spool import SpoolMark
from mailio.spool.opening import Shelf
from tests.io.spool.kinds import LONG_S, Place


def ages(shelf: Shelf) -> list[tuple[int, bool, bool]]:
    """Return number, sealed and old of each segment."""
    return [
        (info.number, info.is_sealed, info.age_s > LONG_S - 1000)
        for info in shelf.inventory().segments
    ]


async def test_what_was_appended_reads_back_in_order(place: Place) -> None:
    spool = place.spool()
    contents = [b"", b"one\r\n", os.urandom(70_000), b"", b"four"]
    refs = spool.append(contents)
    assert [ref.length for ref in refs] == [0, 5, 70_000, 0, 4]
    assert len({(ref.segment, ref.offset) for ref in refs}) == 5
    assert list(await spool.read_many(refs)) == contents
    assert spool.read_now(refs[::-1]) == contents[::-1]
    assert place.spool().read_now([refs[4], refs[1], refs[4]]) == [b"four", b"one\r\n", b"four"]


def test_appending_nothing_makes_nothing(place: Place) -> None:
    assert list(place.spool().append([])) == []
    assert list(place.shelf().inventory().segments) == []


def test_content_larger_than_any_document_reads_back(place: Place) -> None:
    content = os.urandom(1000) * 20_000  # 20 MB
    spool = place.spool()
    refs = spool.append([b"before", content, b"after"])
    assert spool.read_now(refs) == [b"before", content, b"after"]


def test_a_reference_that_does_not_match_reads_as_none(place: Place) -> None:
    spool = place.spool()
    (ref,) = spool.append([b"content"])
    wrong = [
        replace(ref, crc=ref.crc ^ 1),
        replace(ref, length=ref.length - 1),
        replace(ref, length=0),
        replace(ref, offset=ref.offset + 1),
        replace(ref, offset=2**40),
        replace(ref, segment=ref.segment + 1),
    ]
    assert spool.read_now([*wrong, ref]) == [None] * 6 + [b"content"]


def test_damage_reads_as_none_and_spoils_no_other(place: Place) -> None:
    spool = place.spool()
    refs = spool.append([b"first", b"second"])
    place.flip(refs[0])
    assert spool.read_now(refs) == [None, b"second"]


def test_what_threads_append_together_reads_back(place: Place) -> None:
    spool = place.spool()
    wanted = [[b"%d-%d" % (n, k) for k in range(3)] for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        refs = list(threads.map(spool.append, wanted))
    assert [spool.read_now(some) for some in refs] == wanted
    every = {(ref.segment, ref.offset) for some in refs for ref in some}
    assert len(every) == 120


def test_two_writers_never_share_a_segment(place: Place) -> None:
    spools = [place.spool(writer=1) for _ in range(3)]
    refs = [spool.append([b"%d" % number])[0] for number, spool in enumerate(spools)]
    assert len({ref.segment for ref in refs}) == 3
    assert spools[0].read_now(refs) == [b"0", b"1", b"2"]


def test_a_full_or_old_segment_is_followed_by_a_new_one(place: Place) -> None:
    now = [0.0]
    spool = place.spool(
        max_segment_bytes=1000, max_segment_age_s=15, max_idle_s=1e9, monotonic=lambda: now[0]
    )
    first, second = spool.append([b"a" * 600, b"b" * 600])
    (third,) = spool.append([b"c"])
    (fourth,) = spool.append([b"d"])
    now[0] = 16
    (fifth,) = spool.append([b"e"])
    assert first.segment == second.segment < third.segment == fourth.segment < fifth.segment
    assert spool.read_now([first, fourth, fifth]) == [b"a" * 600, b"d", b"e"]
    sealed = {info.number: info.is_sealed for info in place.shelf().inventory().segments}
    assert sealed == {first.segment: True, third.segment: True, fifth.segment: False}


def test_only_sealed_segments_are_deleted(place: Place) -> None:
    spool, shelf = place.spool(), place.shelf()
    (old,) = spool.append([b"old"])
    spool.seal()
    (new,) = spool.append([b"new"])
    wanted = [old.segment, new.segment, 12345]
    assert list(shelf.delete(wanted)) == [old.segment]
    assert place.spool().read_now([old, new]) == [None, b"new"]
    assert [info.number for info in shelf.inventory().segments] == [new.segment]


def test_the_sizes_told_hold_what_is_alive(place: Place) -> None:
    spool = place.spool()
    refs = spool.append([b"x" * 1000, b"", b"y" * 500])
    spool.seal()
    (info,) = place.shelf().inventory().segments
    assert 1500 + 3 * 8 <= info.size_bytes <= 1500 + 3 * 8 + 64
    assert info.number == refs[0].segment
    assert info.created_ms == info.number // 4096


def test_what_is_held_is_not_deleted_before_the_end(place: Place) -> None:
    spool, shelf = place.spool(), place.shelf()
    with spool.holding():
        refs = [*spool.append([b"one"])]
        spool.seal()
        refs += spool.append([b"two"])
        spool.seal()
        numbers = [info.number for info in shelf.inventory().segments]
        assert len(numbers) == 2
        assert list(shelf.delete(numbers)) == []
        assert spool.read_now(refs) == [b"one", b"two"]
    assert [info.is_sealed for info in shelf.inventory().segments] == [True, True]
    assert list(shelf.delete(numbers)) == numbers


def test_a_writer_with_nothing_to_write_seals_its_segment(place: Place) -> None:
    spool, shelf = place.spool(max_idle_s=0.05), place.shelf()
    (first,) = spool.append([b"x"])
    while not shelf.inventory().segments[0].is_sealed:
        threading.Event().wait(0.01)
    (second,) = spool.append([b"y"])
    assert second.segment > first.segment
    assert spool.read_now([first, second]) == [b"x", b"y"]


def test_age_counts_from_the_last_write_and_can_be_given(place: Place) -> None:
    spool, shelf = place.spool(), place.shelf()
    (ref,) = spool.append([b"x"])
    spool.seal()
    place.age_all()
    assert ages(shelf) == [(ref.segment, True, True)]
    shelf.spare(ref.segment, age_s=50.0)
    (info,) = shelf.inventory().segments
    assert 49.0 <= info.age_s < 1000.0
    shelf.spare(12345, age_s=0.0)


def test_copies_share_a_segment_until_it_is_sealed(place: Place) -> None:
    shelf = place.shelf()
    refs = [*shelf.copy([b"one"]), *shelf.copy([b"two"])]
    assert refs[0].segment == refs[1].segment
    assert list(shelf.delete([refs[0].segment])) == []
    shelf.seal()
    assert list(shelf.read(refs)) == [b"one", b"two"]
    assert [info.is_sealed for info in shelf.inventory().segments] == [True]


def test_too_little_room_refuses_before_anything_is_written(place: Place) -> None:
    kept = [2**62]
    spool = place.spool(min_free_bytes=lambda: kept[0])
    with pytest.raises(StoreFull, match="disk are left"):
        spool.append([b"refused"])
    kept[0] = 0
    first, second = spool.append([b"x"])[0], spool.append([b"y"])[0]
    assert (first.segment, spool.read_now([first, second])) == (second.segment, [b"x", b"y"])


def test_content_that_is_all_urgent_may_take_half_of_what_must_stay_free(place: Place) -> None:
    free = place.shelf().space().free_bytes
    spool = place.spool(min_free_bytes=free + free // 2)
    with pytest.raises(StoreFull):
        spool.append([b"may wait"])
    (ref,) = spool.append([b"urgent"], is_urgent=True)
    assert spool.read_now([ref]) == [b"urgent"]
    with pytest.raises(StoreFull):
        place.spool(min_free_bytes=2**62).append([b"urgent"], is_urgent=True)


def test_the_first_writer_marks_it_and_another_installation_is_refused(place: Place) -> None:
    shelf = place.shelf()
    assert shelf.mark() is None
    place.spool(owner=lambda: "ours").append([b"x"])
    assert shelf.mark() == SpoolMark("ours")
    with pytest.raises(StoreUnavailable, match="another installation"):
        place.spool(owner=lambda: "others").append([b"theirs"])
    assert len(shelf.inventory().segments) == 1
    shelf.write_mark(SpoolMark("ours", "node1", 7))
    place.claim("ours")
    assert shelf.mark() == SpoolMark("ours", "node1", 7)


def test_of_many_who_claim_at_once_one_wins(place: Place) -> None:
    place.spool().append([b"x"])

    def is_mine(name: str) -> bool:
        try:
            place.claim(name)
        except StoreUnavailable:
            return False
        return True

    names = [f"i{number % 4}" for number in range(16)]
    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(is_mine, names))
    mark = place.shelf().mark()
    assert mark is not None
    assert won == [name == mark.installation for name in names]


def test_a_forked_child_writes_to_a_segment_of_its_own(place: Place) -> None:
    spool = place.spool()
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


def test_room_is_told(place: Place) -> None:
    place.spool().append([b"x"])
    space = place.shelf().space()
    assert 0 < space.free_bytes <= space.total_bytes

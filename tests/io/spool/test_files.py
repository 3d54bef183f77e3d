"""What is ours in a spool's directory, and what upkeep may do with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailio.spool.files import (
    WRITERS,
    delete_sealed,
    header_of,
    segment_path,
    space_of,
    spare,
    take_inventory,
)
from mailio.spool.segments import SegmentSpool

NOW = 1_700_000_000.0
NUMBER = int(NOW * 1000 - 10_000_000) * WRITERS + 5


def put(directory: Path, name: str, content: bytes, age_s: float = 5000.0) -> Path:
    path = directory / name
    path.write_bytes(content)
    os.utime(path, (NOW - age_s, NOW - age_s))
    return path


def test_a_segment_is_told_with_its_size_age_and_birth(tmp_path: Path) -> None:
    put(tmp_path, segment_path(tmp_path, NUMBER).name, header_of(NUMBER) + b"x" * 10)
    (info,) = take_inventory(tmp_path, now=NOW).segments
    assert (info.number, info.size_bytes, info.age_s, info.is_sealed) == (NUMBER, 34, 5000.0, True)
    assert info.created_ms == int(NOW * 1000) - 10_000_000


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "deadbeef.seg",
        f"{NUMBER:016X}.seg",
        f"+{NUMBER:015x}.seg",
        f"{NUMBER:016x}.seg.old",
        "ffffffffffffffff.seg",
        ".seg",
    ],
)
def test_a_file_with_another_name_is_foreign_and_stays(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, header_of(NUMBER))
    found = take_inventory(tmp_path, now=NOW)
    assert (list(found.segments), list(found.foreign)) == ([], [name])
    assert delete_sealed(tmp_path, [NUMBER, 0xDEADBEEF], now=NOW) == []
    assert (tmp_path / name).exists()


def test_a_file_with_our_name_and_another_content_is_foreign_and_stays(tmp_path: Path) -> None:
    path = put(tmp_path, segment_path(tmp_path, NUMBER).name, b"somebody's only copy of a thesis")
    assert take_inventory(tmp_path, now=NOW).foreign == [path.name]
    assert delete_sealed(tmp_path, [NUMBER], now=NOW) == []
    assert path.exists()


def test_another_segments_copy_under_our_name_is_foreign(tmp_path: Path) -> None:
    path = put(tmp_path, segment_path(tmp_path, NUMBER).name, header_of(NUMBER + 1) + b"x")
    assert take_inventory(tmp_path, now=NOW).foreign == [path.name]


def test_links_and_directories_are_foreign(tmp_path: Path) -> None:
    (tmp_path / "aside").mkdir()
    target = put(tmp_path / "aside", "target", header_of(NUMBER))
    link = segment_path(tmp_path, NUMBER)
    link.symlink_to(target)
    segment_path(tmp_path, NUMBER + 1).mkdir()
    found = take_inventory(tmp_path, now=NOW)
    assert list(found.segments) == []
    assert found.foreign == sorted(["aside", link.name, segment_path(tmp_path, NUMBER + 1).name])
    assert delete_sealed(tmp_path, [NUMBER, NUMBER + 1], now=NOW) == []
    assert target.exists()


@pytest.mark.parametrize("left", [b"", header_of(NUMBER)[:7], bytes(24), bytes(4096)])
def test_what_a_crash_left_of_a_new_segment_is_ours(tmp_path: Path, left: bytes) -> None:
    put(tmp_path, segment_path(tmp_path, NUMBER).name, left)
    assert [i.number for i in take_inventory(tmp_path, now=NOW).segments] == [NUMBER]
    assert delete_sealed(tmp_path, [NUMBER], now=NOW) == [NUMBER]


def test_a_name_that_is_no_text_is_told_as_one(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9"), "wb"):
        pass
    (name,) = take_inventory(tmp_path, now=NOW).foreign
    assert name.encode() == b"caf\\xe9"


def test_a_spared_segment_counts_as_young_again(tmp_path: Path) -> None:
    put(tmp_path, segment_path(tmp_path, NUMBER).name, header_of(NUMBER))
    spare(tmp_path, NUMBER, age_s=60.0, now=NOW)
    spare(tmp_path, NUMBER + 1, age_s=60.0, now=NOW)
    assert [info.age_s for info in take_inventory(tmp_path, now=NOW).segments] == [60.0]


def test_a_directory_that_is_not_there_yet_is_empty_and_has_room(tmp_path: Path) -> None:
    absent = tmp_path / "a" / "b"
    assert list(take_inventory(absent, now=NOW).segments) == []
    space = space_of(absent)
    assert 0 < space.free_bytes <= space.total_bytes


def test_what_a_writer_makes_is_recognised(tmp_path: Path) -> None:
    spool = SegmentSpool(tmp_path, min_free_bytes=0)
    (ref,) = spool.append([b"x"])
    found = take_inventory(tmp_path, now=NOW)
    assert [(info.number, info.is_sealed) for info in found.segments] == [(ref.segment, False)]
    assert list(found.foreign) == []
    spool.close()


def test_one_segment_that_cannot_be_deleted_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [NUMBER, NUMBER + 1, NUMBER + 2]
    for number in numbers:
        put(tmp_path, segment_path(tmp_path, number).name, header_of(number))
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == segment_path(tmp_path, NUMBER):
            raise PermissionError(1, "Operation not permitted")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    assert delete_sealed(tmp_path, numbers, now=NOW) == numbers[1:]

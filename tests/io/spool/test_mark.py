"""Whose a spool directory is: who comes first marks it, and nobody else writes there."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailcore.ports import StoreUnavailable
from mailcore.spool import SpoolMark
from mailio.spool.files import MARK, take_inventory
from mailio.spool.mark import claim, read_mark, write_mark
from mailio.spool.segments import SegmentSpool


def test_the_first_writer_marks_the_directory_and_another_installation_is_refused(
    tmp_path: Path,
) -> None:
    asked: list[str] = []

    def ours() -> str:
        asked.append("ours")
        return "ours"

    with contextlib.closing(SegmentSpool(tmp_path, min_free_bytes=0, owner=ours)) as spool:
        refs = [*spool.append([b"one"]), *spool.append([b"two"])]
        assert (read_mark(tmp_path), asked) == (SpoolMark("ours"), ["ours"])
        others = SegmentSpool(tmp_path, min_free_bytes=0, owner=lambda: "others")
        with (
            contextlib.closing(others) as spool_of_others,
            pytest.raises(StoreUnavailable, match="another installation"),
        ):
            spool_of_others.append([b"theirs"])
        assert len(spool.segments()) == 1
        assert spool.read_now(refs) == [b"one", b"two"]


def test_of_many_who_claim_at_once_one_wins_and_leaves_no_file_behind(tmp_path: Path) -> None:
    def is_mine(name: str) -> bool:
        try:
            claim(tmp_path, name)
        except StoreUnavailable:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(is_mine, [f"i{n % 4}" for n in range(64)]))
    mark = read_mark(tmp_path)
    assert mark is not None
    assert won == [f"i{n % 4}" == mark.installation for n in range(64)]
    assert [path.name for path in tmp_path.iterdir()] == [MARK]


def test_a_mark_is_replaced_whole_and_is_none_of_the_foreign_files(tmp_path: Path) -> None:
    for sweeps in (1, 2):
        write_mark(tmp_path, SpoolMark("ours", "node1", sweeps))
        assert read_mark(tmp_path) == SpoolMark("ours", "node1", sweeps)
    found = take_inventory(tmp_path, now=0.0)
    assert (found.segments, found.foreign) == ([], [])
    claim(tmp_path, "ours")
    assert read_mark(tmp_path) == SpoolMark("ours", "node1", 2)

"""A process may be killed at any moment: what its journal was told is found by who recovers it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.errors import SchemaError
from mailcore.outcome import Outcome, Scope, SessionInfo, Verdict
from mailcore.ports import JournalShelf, StoreUnavailable
from mailcore.reply import EnhancedStatus, SmtpReply
from mailio.journal import (
    FileJournal,
    Recovery,
    discard,
    journals,
    recover,
)
from mailio.journal_records import OUTCOME, decode_outcome, encode_outcome, record
from mailio.shelves import JournalDirectory

ROOT = Path(__file__).resolve().parents[2]
OK = SmtpReply.of(250, ("2.0.0 queued as 1",))

outcomes = st.builds(
    Outcome,
    row_id=st.integers(1, 2**63 - 1),
    claim_no=st.integers(0, 2**31 - 1),
    verdict=st.sampled_from(Verdict),
    scope=st.sampled_from(Scope),
    reply=st.builds(
        SmtpReply,
        st.integers(200, 599),
        st.lists(st.text(max_size=40), max_size=3).map(tuple),
        st.none() | st.builds(EnhancedStatus, *[st.integers(0, 999)] * 3),
        st.booleans(),
    ),
    stage=st.sampled_from(["connect", "rcpt", "dot"]),
    session=st.builds(SessionInfo, *[st.text(max_size=20)] * 6, st.booleans()),
    dialogue_ms=st.integers(0, 10**9),
    after_dot=st.booleans(),
)


def outcome(row_id: int, claim_no: int = 1, verdict: Verdict = Verdict.DELIVERED) -> Outcome:
    return Outcome(row_id, claim_no, verdict, Scope.RECIPIENT, OK, "dot", SessionInfo("mx.test"))


def crash(journal: FileJournal) -> None:
    """Let go of the lock and nothing else, as the kernel does for a killed process."""
    os.close(journal._lock_fd)
    journal._lock_fd = -1


def left(path: Path) -> Recovery:
    found = recover(path)
    assert found is not None
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FileJournal]:
    journal = FileJournal(tmp_path / "journal", "worker-1")
    yield journal
    journal.stop()


@settings(deadline=None)
@given(outcomes)
def test_every_outcome_round_trips(given_outcome: Outcome) -> None:
    assert decode_outcome(encode_outcome(given_outcome)) == given_outcome


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[1,2]", b"\xff", b'[1,1,"sent","recipient",250,[],null,false,"",[],0,0]'],
)
def test_bytes_that_are_no_outcome_are_refused(payload: bytes) -> None:
    with pytest.raises(SchemaError):
        decode_outcome(payload)


def test_a_dot_without_an_outcome_is_told_from_one_with(journal: FileJournal) -> None:
    for row_id in (1, 2, 3):
        journal.dot(row_id, 7)
    journal.outcome(outcome(2, 7))
    journal.outcome(outcome(4, 1, Verdict.BOUNCED))
    crash(journal)
    assert left(journal.path) == Recovery(
        outcomes=[outcome(2, 7), outcome(4, 1, Verdict.BOUNCED)], dots=[(1, 7), (3, 7)]
    )


def test_what_was_forgotten_is_not_recovered(journal: FileJournal) -> None:
    journal.dot(1, 1)
    journal.outcome(outcome(1))
    journal.outcome(outcome(1, 2))
    journal.outcome(outcome(2))
    journal.forget([(1, 1), (2, 1), (99, 1)])
    assert journal.unsettled_count == 1
    crash(journal)
    assert left(journal.path) == Recovery([outcome(1, 2)], [])


def test_the_journal_of_a_live_process_is_left_alone(journal: FileJournal) -> None:
    journal.dot(1, 1)
    assert recover(journal.path) is None
    assert discard(journal.path) is False
    assert journals(journal.path.parent) == [journal.path]


def test_a_journal_that_is_settled_can_be_discarded_and_its_name_used_again(
    journal: FileJournal,
) -> None:
    journal.outcome(outcome(1))
    crash(journal)
    with pytest.raises(StoreUnavailable, match="holds outcomes of a dead process"):
        FileJournal(journal.path.parent, "worker-1")
    assert left(journal.path).outcomes == [outcome(1)]
    assert discard(journal.path) is True
    assert list(journal.path.parent.iterdir()) == []
    assert discard(journal.path) is True
    assert recover(journal.path) is None
    FileJournal(journal.path.parent, "worker-1").stop()


def test_two_processes_cannot_share_a_name(journal: FileJournal) -> None:
    with pytest.raises(StoreUnavailable, match="belongs to a live process"):
        FileJournal(journal.path.parent, "worker-1")


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_record_costs_only_itself(journal: FileJournal, cut: int) -> None:
    journal.outcome(outcome(1))
    journal.dot(2, 1)
    crash(journal)
    (file,) = journal.path.parent.glob("*.000001")
    with file.open("r+b") as raw:
        raw.truncate(file.stat().st_size - cut)
    assert left(journal.path) == Recovery([outcome(1)], [], damaged_files=1)


def test_an_outcome_of_a_newer_version_is_unknown_and_hides_no_dot_behind_it(
    journal: FileJournal,
) -> None:
    journal.dot(1, 1)
    crash(journal)
    (file,) = journal.path.parent.glob("*.000001")
    newer = encode_outcome(outcome(1)).replace(b'"delivered"', b'"teleported"')
    behind = journal_of(journal.path.parent / "behind", dots=[(2, 1)], outcomes=[outcome(3)])
    file.write_bytes(file.read_bytes() + record(OUTCOME, newer) + behind)
    assert left(journal.path) == Recovery([outcome(3)], [(1, 1), (2, 1)], damaged_files=1)


def journal_of(directory: Path, *, dots: list[tuple[int, int]], outcomes: list[Outcome]) -> bytes:
    """Return what a process writes that notes these."""
    writer = FileJournal(directory, "worker-2")
    for claim in dots:
        writer.dot(*claim)
    for one in outcomes:
        writer.outcome(one)
    (file,) = directory.glob("*.000001")
    writer.stop()
    return file.read_bytes()


def test_a_flipped_bit_is_noticed(journal: FileJournal) -> None:
    journal.outcome(outcome(1))
    journal.outcome(outcome(2))
    crash(journal)
    (file,) = journal.path.parent.glob("*.000001")
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    assert left(journal.path) == Recovery([outcome(1)], [], damaged_files=1)


def test_files_follow_one_another_and_leave_when_all_they_tell_is_settled(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, "w", max_file_bytes=400, min_file_bytes=100)
    for row_id in range(20):
        journal.outcome(outcome(row_id))
    assert len(list(tmp_path.glob("w.journal.*"))) >= 5
    journal.forget([(row_id, 1) for row_id in range(19, 0, -1)])
    crash(journal)
    assert left(journal.path) == Recovery([outcome(0)], [])
    journal.forget([(0, 1)])
    journal.sync()
    assert len(list(tmp_path.glob("w.journal.*"))) == 1
    assert left(journal.path) == Recovery([], [])
    journal.stop()


def test_a_busy_journal_stays_small(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, "w", max_file_bytes=20_000, min_file_bytes=2_000)
    journal.start()
    for row_id in range(2000):
        journal.dot(row_id, 1)
        journal.outcome(outcome(row_id))
        if row_id >= 10:
            journal.forget([(row_id - 10, 1)])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 60_000
    assert journal.unsettled_count == 10
    journal.forget([(row_id, 1) for row_id in range(1990, 2000)])
    journal.stop()
    assert list(tmp_path.iterdir()) == []


def test_the_thread_syncs_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    real = os.fdatasync

    def sync(fd: int) -> None:
        real(fd)
        synced.set()

    monkeypatch.setattr(os, "fdatasync", sync)
    journal = FileJournal(tmp_path, "w", sync_every_s=0.01)
    journal.start()
    journal.start()
    journal.dot(1, 1)
    assert synced.wait(60)
    journal.stop()
    journal.stop()
    assert left(journal.path).dots == [(1, 1)]


def test_a_dot_that_cannot_be_written_whole_is_refused_and_leaves_no_trace(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.outcome(outcome(1))
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, record: real(fd, record[:5]))
        with pytest.raises(StoreUnavailable, match="disk is full"):
            journal.dot(2, 1)

    def fail(fd: int, record: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        with pytest.raises(StoreUnavailable, match="No space left"):
            journal.dot(3, 1)
        journal.forget([(1, 1)])
    assert journal.unsettled_count == 0
    journal.dot(4, 1)
    crash(journal)
    assert left(journal.path) == Recovery([outcome(1)], [(4, 1)])


def test_nothing_a_killed_process_was_told_is_lost(tmp_path: Path) -> None:
    code = """
        import os, sys, pathlib
        from mailcore.outcome import Outcome, Scope, Verdict
        from mailcore.reply import SmtpReply
        from mailio.journal import FileJournal
        journal = FileJournal(pathlib.Path(sys.argv[1]), "w", max_file_bytes=5_000)
        journal.start()
        reply = SmtpReply.of(250, ("2.0.0 ok",))
        row_id = 0
        while True:
            row_id += 1
            journal.dot(row_id, 1)
            os.write(1, b"dot %d\\n" % row_id)
            if row_id % 3:
                journal.outcome(
                    Outcome(row_id, 1, Verdict.DELIVERED, Scope.RECIPIENT, reply, "dot")
                )
                os.write(1, b"outcome %d\\n" % row_id)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(900)]
    assert recover(tmp_path / "w.journal") is None
    os.kill(process.pid, signal.SIGKILL)
    rest = process.communicate()[0]
    lines += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    told = [tuple(line.split()) for line in lines]
    found = left(tmp_path / "w.journal")
    had_outcome = {o.row_id for o in found.outcomes}
    assert {int(number) for word, number in told if word == "outcome"} <= had_outcome
    seen = had_outcome | {row_id for row_id, _ in found.dots}
    assert {int(number) for word, number in told if word == "dot"} <= seen
    assert all(row_id % 3 == 0 for row_id, _ in found.dots[:-1])
    assert discard(tmp_path / "w.journal") is True


def test_a_node_finds_the_journals_that_tell_of_something_and_waits_for_the_living(
    tmp_path: Path,
) -> None:
    shelf: JournalShelf = JournalDirectory(tmp_path)
    alive, dying = FileJournal(tmp_path, "n1-alive"), FileJournal(tmp_path, "n1-dying")
    (tmp_path / "n1-newborn.journal").touch()
    dying.dot(7, 1)
    assert list(shelf.names()) == ["n1-alive", "n1-dying"]
    dying.stop()
    found = shelf.recover("n1-dying")
    assert found is not None
    assert list(found.dots) == [(7, 1)]
    assert shelf.recover("n1-alive") is None
    shelf.discard("n1-dying")
    alive.stop()
    assert list(shelf.names()) == []
    assert list(JournalDirectory(tmp_path / "none").names()) == []

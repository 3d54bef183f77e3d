"""Suites side by side: which lane takes what, and that no end leaves one running."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import lanes, suites
from deploy.lanes import Lanes
from tests.architecture import rules
from tests.support.fleet import eventually

PATIENCE_S = 120.0
SLEEPER = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
RUNNER = """
import signal
import sys
from pathlib import Path
from deploy import suites

# Whoever runs the tests in the background has it ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
suites.TOP = Path.cwd()
suites.REPORTS = Path.cwd() / "reports"
sys.exit(suites.main(["workers,control"]))
"""
WAITING = """
import os, pathlib, threading

def test_it():
    try:
        pathlib.Path(f"{os.getpid()}.pid").touch()
        threading.Event().wait()
    finally:
        pathlib.Path(f"{os.getpid()}.cleared").touch()
"""


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "GRACE_S", 0.2)


def test_two_lanes_work_at_once_from_both_ends_and_results_keep_the_order() -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)
    begun: list[str] = []

    def work(name: str) -> str:
        begun.append(name)
        if name in ("first", "last"):
            both.wait()  # passed by two together, or broken
        return name.upper()

    assert Lanes(["first", "b", "c", "last"], 2).run(work) == ["FIRST", "B", "C", "LAST"]
    assert set(begun[:2]) == {"first", "last"}
    assert sorted(begun[2:]) == ["b", "c"]


def test_one_lane_works_in_order() -> None:
    begun: list[str] = []
    Lanes(["a", "b", "c"], 1).run(begun.append)
    assert begun == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("environ", "count"), [({"LANES": "1"}, 1), ({"LANES": "3"}, 3), ({"LANES": "many"}, None)]
)
def test_the_number_of_lanes_can_be_asked_for(environ: dict[str, str], count: int | None) -> None:
    assert suites.count_lanes(environ) == (count or suites.count_lanes({}))
    assert suites.count_lanes({}) in (1, suites.LANES)


def test_a_command_tells_its_exit_code_and_speaks_into_its_file(tmp_path: Path) -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    command = [sys.executable, "-c", script]
    with (tmp_path / "log").open("wb") as out:
        assert Lanes(["a"], 1).call(command, cwd=tmp_path, env=os.environ, out=out) == 3
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("command", [SLEEPER, DEAF], ids=["one that hears", "one that is deaf"])
def test_an_end_ends_what_runs_and_nothing_else_is_begun(
    tmp_path: Path, command: list[str]
) -> None:
    # The second lane begins at the back; for the one between no lane becomes free.
    both = Lanes(["a", "never", "b"], 2)
    logs = {name: tmp_path / name for name in ("a", "b")}

    def work(name: str) -> tuple[str, int]:
        with logs[name].open("wb") as out:
            return name, both.call(command, cwd=tmp_path, env=os.environ, out=out)

    def end() -> None:
        eventually(lambda: all(log.exists() and log.read_text() for log in logs.values()))
        both.end()

    ender = threading.Thread(target=end)
    ender.start()
    ended = dict(both.run(work))
    ender.join()
    assert set(ended) == {"a", "b"}
    assert all(ended.values())
    assert both.call(command, cwd=tmp_path, env=os.environ) == lanes.NOT_BEGUN


# ── the runner ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def runner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A runner with two suites that never end, in a session of its own as in a terminal."""
    for suite in ("workers", "control"):
        folder = tmp_path / "tests" / suite
        folder.mkdir(parents=True)
        (folder / f"test_{suite}.py").write_text(WAITING)
    path = f"{rules.TOP}:{rules.TOP / 'platform'}"
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "LANES": "2", "DJANGO_SETTINGS_MODULE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        eventually(lambda: len(list(tmp_path.glob("*.pid"))) == 2, what=process.poll)
        yield process
    finally:
        for path_of_pid in tmp_path.glob("*.pid"):
            if is_running(int(path_of_pid.stem)):
                os.kill(int(path_of_pid.stem), signal.SIGKILL)
        process.kill()
        process.communicate()


def is_running(pid: int) -> bool:
    """Whether a process of this number has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "is_to_all", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)],
    ids=["Ctrl-C", "SIGTERM to the runner"],
)
def test_suites_end_with_the_runner_and_clear_up(
    runner: "subprocess.Popen[str]",
    tmp_path: Path,
    number: signal.Signals,
    is_to_all: bool,
    code: int,
) -> None:
    (os.killpg if is_to_all else os.kill)(runner.pid, number)
    said, _ = runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == code, said
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert not any(is_running(pid) for pid in pids)
    assert {int(path.stem) for path in tmp_path.glob("*.cleared")} == set(pids)
    # What each had said until then is not lost.
    assert said.count("KeyboardInterrupt") >= 2

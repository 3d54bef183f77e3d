"""The supervisor: our own processes start, come back, stop in order and never stay behind."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.child import Child, ChildState
from embedded.errors import StartError
from embedded.signals import stop_signals
from embedded.supervise import Supervisor
from tests.io.embedded.world import TOP, eventually, is_running, processes_in

SLEEP = ("sleep", "600")
ENV = {"PATH": os.defpath}


@pytest.fixture
def lines() -> "queue.Queue[str]":
    return queue.Queue()


@pytest.fixture
def supervisor(tmp_path: Path, lines: "queue.Queue[str]") -> Iterator[Supervisor]:
    keeper = Supervisor(tmp_path / "log", say=lines.put, first_backoff_s=0.02)
    yield keeper
    keeper.stop()


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def test_processes_are_listed_by_name_and_their_output_is_kept(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.add(
        "web",
        ("sh", "-c", "echo hello $WHO; echo oops >&2; exec sleep 600"),
        {**ENV, "WHO": "world"},
    )
    supervisor.add("beat", SLEEP, ENV)
    supervisor.start()
    assert set(supervisor.pids()) == {"web", "beat"}
    assert all(is_running(pid) for pid in supervisor.pids().values())
    log = tmp_path / "log" / "web.log"
    eventually(lambda: log.exists() and log.read_text() == "hello world\noops\n")
    assert supervisor.status()["web"].log == log


def test_start_waits_until_a_process_says_it_is_ready(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    sign = tmp_path / "ready"
    supervisor.add(
        "web", ("sh", "-c", f"sleep 0.2; touch {sign}; exec sleep 600"), ENV, ready=sign.exists
    )
    supervisor.start()
    assert sign.exists()
    assert supervisor.status()["web"].state is ChildState.RUNNING


def test_a_probe_that_takes_long_holds_up_no_other(supervisor: Supervisor) -> None:
    asked, other_is_up = threading.Event(), threading.Event()

    def web_is_ready() -> bool:
        asked.set()
        return other_is_up.wait(20)

    def event_is_ready() -> bool:
        return asked.is_set()

    supervisor.add("web", SLEEP, ENV, ready=web_is_ready)
    supervisor.add("event", SLEEP, ENV, ready=event_is_ready)
    supervisor.start("web", is_awaited=False)
    supervisor.start("event")
    assert supervisor.status()["web"].state is ChildState.STARTING
    other_is_up.set()
    eventually(lambda: supervisor.status()["web"].state is ChildState.RUNNING)


def test_one_that_nobody_waits_for_is_started_again_until_it_is_ready(
    supervisor: Supervisor, lines: "queue.Queue[str]", tmp_path: Path
) -> None:
    tried, up = tmp_path / "tried", tmp_path / "up"
    code = f"test -e {tried} && touch {up} && exec sleep 600; touch {tried}; exit 3"
    supervisor.add("flower", ("sh", "-c", code), ENV, ready=up.exists)
    supervisor.start("flower", is_awaited=False)
    assert lines.get(timeout=60).startswith("flower ended with exit code 3")
    assert lines.get(timeout=60) == "flower is running again"


def test_one_that_ends_at_once_is_an_error_with_the_last_lines_of_its_log(
    supervisor: Supervisor,
) -> None:
    argv = ("sh", "-c", "echo no such setting: COLOUR; exit 3")
    supervisor.add("web", argv, ENV, ready=lambda: False)
    with pytest.raises(StartError, match="web did not start: it ended with exit code 3") as told:
        supervisor.start()
    assert "no such setting: COLOUR" in str(told.value)


def test_one_that_is_never_ready_is_an_error_at_the_deadline(supervisor: Supervisor) -> None:
    supervisor.add("web", SLEEP, ENV, ready=lambda: False, ready_timeout_s=0.2)
    with pytest.raises(StartError, match=r"web did not start: not ready within 0\.2 s"):
        supervisor.start()


def test_whoever_is_asked_to_end_does_not_wait_for_the_deadline(tmp_path: Path) -> None:
    asked = threading.Event()
    keeper = Supervisor(tmp_path, asked=asked)

    def is_ready() -> bool:
        asked.set()
        return False

    keeper.add("web", SLEEP, ENV, ready=is_ready, ready_timeout_s=600)
    try:
        with pytest.raises(StartError, match="it was to end before it was ready"):
            keeper.start()
    finally:
        keeper.stop()
    assert keeper.pids() == {}


def test_a_probe_that_fails_is_told_and_does_not_end_the_watch(supervisor: Supervisor) -> None:
    def probe() -> bool:
        raise KeyError("colour")

    # Long enough for one look also on a machine that has much else to do.
    supervisor.add("web", SLEEP, ENV, ready=probe, ready_timeout_s=1.5)
    with pytest.raises(StartError, match=r"not ready within 1\.5 s \(KeyError: 'colour'\)"):
        supervisor.start()
    supervisor.add("beat", SLEEP, ENV)
    supervisor.start()
    assert "beat" in supervisor.pids()


def test_one_that_hangs_when_started_again_is_ended_and_started_once_more(
    supervisor: Supervisor, lines: "queue.Queue[str]", tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    code = f"echo $$ >> {lives}; exec sleep 600"

    def probe() -> bool:
        pids = lives.read_text().split()
        return pids[-1] == str(supervisor.pids()["web"]) and len(pids) != 2  # the second hangs

    supervisor.add("web", ("sh", "-c", code), ENV, ready=probe, ready_timeout_s=2)
    supervisor.start()
    os.kill(supervisor.pids()["web"], signal.SIGKILL)
    told = [lines.get(timeout=60) for _ in range(4)]
    assert told[0].startswith("web was ended by signal 9")
    assert told[1] == "web is not ready after 2 s"
    assert told[2].startswith("web was ended by signal 15")
    assert told[3] == "web is running again"


def test_a_program_that_is_not_there_is_named(supervisor: Supervisor) -> None:
    supervisor.add("web", ("/nowhere/program",), ENV)
    with pytest.raises(StartError, match="cannot run /nowhere/program: No such file"):
        supervisor.start()


def test_a_process_that_dies_again_and_again_comes_back_ever_more_slowly(
    supervisor: Supervisor, lines: "queue.Queue[str]", tmp_path: Path
) -> None:
    sign, go = tmp_path / "count", tmp_path / "go"
    code = (
        f"echo x >> {sign}; while [ ! -e {go} ]; do sleep 0.02; done;"
        f" [ $(wc -l < {sign}) -lt 5 ] && exit 7; exec sleep 600"
    )
    supervisor.add("web", ("sh", "-c", code), ENV, ready=sign.exists)
    supervisor.start()
    go.touch()
    delays: list[str] = []
    while len(delays) < 4:
        line = lines.get(timeout=60)
        if "web ended with exit code 7" in line:
            delays.append(line.partition("again in ")[2].partition(" (")[0])
    assert delays == ["0.02 s", "0.04 s", "0.08 s", "0.16 s"]
    eventually(lambda: sign.read_text().count("x") == 5)
    assert supervisor.status()["web"].restarts == 4


def test_one_that_ends_well_unasked_is_started_again(
    supervisor: Supervisor, lines: "queue.Queue[str]", tmp_path: Path
) -> None:
    sign = tmp_path / "ended once"
    code = f"[ -e '{sign}' ] || {{ touch '{sign}'; sleep 0.5; exit 0; }}; exec sleep 600"
    supervisor.add("web", ("sh", "-c", code), ENV, ready=sign.exists)
    supervisor.start()
    assert "web ended with exit code 0" in lines.get(timeout=60)
    assert lines.get(timeout=60) == "web is running again"
    status = supervisor.status()["web"]
    assert (status.state, status.restarts) == (ChildState.RUNNING, 1)
    assert status.up_s is not None


def test_one_that_is_kept_down_stays_down_until_it_is_started(
    supervisor: Supervisor, lines: "queue.Queue[str]"
) -> None:
    supervisor.add("web", SLEEP, ENV)
    supervisor.add("beat", SLEEP, ENV)
    supervisor.start()
    before = supervisor.pids()
    supervisor.keep_down("web")
    assert not is_running(before["web"])
    assert supervisor.pids() == {"beat": before["beat"]}
    status = supervisor.status()["web"]
    assert (status.state, status.restarts, status.up_s) == (ChildState.STOPPED, 0, None)
    supervisor.start("web")
    assert supervisor.pids()["web"] != before["web"]
    assert lines.empty()


def test_one_that_waits_to_be_started_again_can_be_kept_down(
    supervisor: Supervisor, lines: "queue.Queue[str]", tmp_path: Path
) -> None:
    slow = Supervisor(tmp_path / "log", say=lines.put, first_backoff_s=600)
    slow.add("web", SLEEP, ENV)
    slow.start()
    os.kill(slow.pids()["web"], signal.SIGKILL)
    assert "was ended by signal 9" in lines.get(timeout=60)
    slow.keep_down("web")
    assert slow.status()["web"].state is ChildState.STOPPED
    slow.start("web")
    assert slow.status()["web"].state is ChildState.RUNNING
    slow.stop()


def test_they_stop_in_reverse_order(supervisor: Supervisor, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("first", "second", "third"):
        code = (
            "import signal, sys\n"
            f"def end(*_):\n    open({str(order)!r}, 'a').write({name!r} + ' '); sys.exit()\n"
            f"signal.signal(signal.SIGTERM, end)\nopen({str(tmp_path / name)!r}, 'w').close()\n"
            "signal.pause()"
        )
        supervisor.add(name, python(code), ENV, ready=(tmp_path / name).exists)
    supervisor.start()
    pids = supervisor.pids()
    supervisor.stop()
    assert order.read_text() == "third second first "
    assert not any(is_running(pid) for pid in pids.values())
    assert supervisor.pids() == {}


# A shell that is about to start a child may lose a signal's trap; an interpreter does not.
TELLS_ITS_SIGNAL = """
import pathlib, signal, sys, time
there = pathlib.Path(sys.argv[1])
def told(number, frame):
    (there / "told").write_text(signal.Signals(number).name)
    sys.exit()
for each in (signal.SIGQUIT, signal.SIGTERM):
    signal.signal(each, told)
(there / "up").touch()
while True:
    time.sleep(0.05)
"""


def test_the_stop_signal_is_the_one_asked_for(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.add(
        "web",
        (sys.executable, "-c", TELLS_ITS_SIGNAL, str(tmp_path)),
        ENV,
        ready=(tmp_path / "up").exists,
        stop_signal=signal.SIGQUIT,
    )
    supervisor.start()
    supervisor.stop()
    assert (tmp_path / "told").read_text() == "SIGQUIT"


def test_a_stubborn_process_is_killed_with_its_children(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    code = f"trap '' TERM; setsid sleep 601 & echo $! > {tmp_path}/child; while :; do sleep 1; done"
    child = tmp_path / "child"
    supervisor.add(
        "web",
        ("sh", "-c", code),
        ENV,
        stop_timeout_s=0.2,
        ready=lambda: child.exists() and bool(child.read_text()),
    )
    supervisor.start()
    pids = [supervisor.pids()["web"], int(child.read_text())]
    supervisor.stop()
    assert not any(is_running(pid) for pid in pids)


def test_a_log_never_outgrows_twice_its_bound(supervisor: Supervisor, tmp_path: Path) -> None:
    code = "import sys\nfor n in range(40000): print('a line of output', n)\nsys.stdout.flush()\n"
    code += f"open({str(tmp_path / 'done')!r}, 'w').close()\nimport signal; signal.pause()"
    bound = 100_000
    supervisor.add_child(
        Child("web", python(code), ENV, ready=(tmp_path / "done").exists, log_bytes=bound)
    )
    supervisor.start()
    supervisor.stop()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "log").iterdir()}
    assert set(sizes) == {"web.log", "web.log.1"}
    assert max(sizes.values()) <= bound + 65536
    last = (tmp_path / "log" / "web.log").read_text().splitlines()[-1]
    assert last == "a line of output 39999"


def test_more_processes_can_be_added_and_started_later(supervisor: Supervisor) -> None:
    supervisor.add("first", SLEEP, ENV)
    supervisor.start()
    before = supervisor.pids()["first"]
    supervisor.add("second", SLEEP, ENV)
    supervisor.start()
    assert supervisor.pids()["first"] == before
    assert set(supervisor.pids()) == {"first", "second"}
    with pytest.raises(ValueError, match="first is running already"):
        supervisor.add("first", SLEEP, ENV)


def test_it_can_be_stopped_and_started_again(supervisor: Supervisor) -> None:
    supervisor.add("web", SLEEP, ENV)
    supervisor.start()
    before = supervisor.pids()["web"]
    supervisor.stop()
    assert supervisor.status()["web"].state is ChildState.STOPPED
    supervisor.start()
    assert supervisor.pids()["web"] != before


def test_all_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\nfrom embedded.supervise import Supervisor\n"
        f"s = Supervisor(pathlib.Path({str(tmp_path)!r}))\n"
        "for name in ('a', 'b'):\n"
        f"    s.add(name, ('sh', '-c', 'setsid sleep 602 & sleep 603'), {ENV!r},"
        f" cwd=pathlib.Path({str(tmp_path)!r}))\n"
        "s.start()\nprint(*s.pids().values(), flush=True)\nsys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOP / "platform")},
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        eventually(lambda: len(processes_in(tmp_path)) >= 6)
        parent.kill()
    eventually(lambda: not processes_in(tmp_path))
    assert not any(is_running(pid) for pid in pids)


def test_stop_signals_become_an_event_and_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(60)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before

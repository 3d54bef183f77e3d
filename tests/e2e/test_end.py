"""However the fleet ends, nothing of it is left running; and it starts again where it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fleet import (
    descendants,
    environment_without_ours,
    eventually,
    starting,
    still_running,
    working_in,
)

TOP = Path(__file__).resolve().parents[2]
GONE_WITHIN_S = 60.0


def run_until_addresses(var_dir: Path) -> "subprocess.Popen[str]":
    """Start `manage.py fleet run`; return once it says where the panel is."""
    environment = environment_without_ours(os.environ)
    process = subprocess.Popen(
        [sys.executable, "manage.py", "fleet", "run", "--var", str(var_dir)],
        cwd=TOP,
        env={**environment, "PYTHONPATH": f"{TOP}:{TOP / 'platform'}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("panel "):
            return process
    process.wait()
    raise AssertionError("".join(said))


@pytest.mark.kill
def test_a_killed_fleet_leaves_nothing_and_starts_again_and_stops(tmp_path: Path) -> None:
    var_dir = tmp_path / "a fleet of mine"
    process = run_until_addresses(var_dir)
    try:
        children = descendants(process.pid)
        assert len(children) > 10
        assert working_in(var_dir)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    eventually(lambda: not still_running(children), within_s=GONE_WITHIN_S)
    eventually(lambda: not working_in(var_dir), within_s=GONE_WITHIN_S)

    others = set(descendants(os.getpid()))
    with starting(var_dir) as running:
        receipt = running.api.accept(
            {"from": "news@sender.test", "to": ["again@accepta.test"], "text": "x"}
        )
        message_id = str(receipt["message_id"])
        eventually(lambda: running.api.recipient(message_id)["state"] == "delivered")
        ours = {pid: at for pid, at in descendants(os.getpid()).items() if pid not in others}
        assert set(running.fleet.pids().values()) <= set(ours)
    eventually(lambda: not still_running(ours), within_s=GONE_WITHIN_S)
    eventually(lambda: not working_in(var_dir), within_s=GONE_WITHIN_S)

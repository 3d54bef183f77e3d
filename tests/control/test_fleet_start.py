"""Before anything is started: one fleet a directory, ports of its own, words instead of traces."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from control.environment import TOP
from control.management.fleet.house import FleetError, House
from control.management.fleet.ports import Ports

FIRST = 21_000


def test_a_second_fleet_in_the_same_directory_is_told_where_the_first_is(tmp_path: Path) -> None:
    first = House(tmp_path, "lab")
    first.claim()
    first.write_environment({"PUBLIC_URL": "http://127.0.0.1:8025"})
    with pytest.raises(FleetError, match=r"runs in .* already, its panel is http://127\.0\.0\.1"):
        House(tmp_path, "lab").claim()
    first.release()
    second = House(tmp_path, "lab")
    second.claim()
    second.release()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FleetError, match="file"):
        House(tmp_path / "file" / "var", "lab")


def test_two_fleets_that_start_together_never_choose_the_same_port() -> None:
    one, other = Ports(), Ports()
    try:
        ports = [one.take(FIRST), other.take(FIRST), one.take(FIRST)]
        assert len(set(ports)) == 3
    finally:
        one.close()
        other.close()


def test_a_port_on_which_another_program_listens_is_passed_over() -> None:
    ports = Ports()
    with socket.create_server(("127.0.0.1", 0)) as program:
        taken = program.getsockname()[1]
        try:
            assert ports.take(taken) > taken
        finally:
            ports.close()


def test_a_port_that_is_let_go_can_be_had_again() -> None:
    one, other = Ports(), Ports()
    port = one.take(FIRST)
    one.close()
    try:
        assert other.take(FIRST) == port
    finally:
        other.close()


def test_a_wrong_variable_ends_a_command_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=TOP,
        env={"DATABASE_URL": "postgresql://127.0.0.1/x", "VAR_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "manage.py: BROKER_URL is not set\n"

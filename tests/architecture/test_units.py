"""The systemd units start what there is, and together all of a node."""

import configparser
import re
from pathlib import Path

import pytest

from control.management.fleet.processes import KINDS, MANY, WORKER_STOP_S, kind_of, names_of
from tests.architecture import rules

UNITS = sorted((rules.TOP / "deploy" / "systemd").glob("*.service"))
START = re.compile(r"/opt/postfleet/\.venv/bin/python manage\.py fleet (?P<verb>up|exec (.+))")


def read(path: Path) -> configparser.ConfigParser:
    """Read a unit; none of ours repeats a key."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def process_of(path: Path) -> str:
    """Return the process a unit starts, "" for the supervisor of all."""
    found = START.fullmatch(read(path)["Service"]["ExecStart"])
    assert found is not None, path.name
    return (found[2] or "").replace("%i", "1")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_process_there_is_and_leaves_it_time_to_end(path: Path) -> None:
    unit = read(path)
    name = process_of(path)
    assert not name or names_of(name) == (name,)
    assert float(unit["Service"]["TimeoutStopSec"]) > (WORKER_STOP_S if "1" in name else 15)
    assert unit["Service"]["Restart"] == "always"
    assert unit["Service"]["EnvironmentFile"] == "/etc/postfleet/env"


def test_the_units_together_are_a_node() -> None:
    kinds = {kind_of(name) for name in map(process_of, UNITS) if name}
    assert kinds == set(KINDS) - {"lab"}
    assert {path.name for path in UNITS if "@" in path.name} == {
        f"postfleet-{kind}@.service" for kind in MANY
    }


def test_make_starts_every_process_by_itself() -> None:
    text = (rules.TOP / "Makefile").read_text(encoding="utf-8")
    started = {kind_of(name) for name in re.findall(r"exec \$\(ENV_FILE\) ([a-z]+)", text)}
    assert started == set(KINDS) - {"lab"}

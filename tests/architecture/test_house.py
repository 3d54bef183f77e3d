"""The commands and their settings: suites, pins, lint lists and the ban on the ORM."""

import configparser
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pytest_socket import SocketConnectBlockedError

from deploy import suites
from tests.architecture import rules

WIRE = {"smtplib", "poplib"}
BAN_FREE = ("platform/mailio", "platform/lab", "tests")


def pins(name: str) -> set[str]:
    """Return the pins of a compiled requirements file."""
    lines = (rules.TOP / name).read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def banned_calls(folder: str) -> set[str]:
    """Return the calls that the ruff.toml of a folder bans."""
    settings: dict[str, Any] = tomllib.loads((rules.TOP / folder / "ruff.toml").read_text("utf-8"))
    return set(settings["lint"]["flake8-tidy-imports"]["banned-api"])


def test_one_install_for_development_serves_the_product_too() -> None:
    assert pins("requirements.txt") <= pins("requirements-dev.txt")
    assert all(re.match(r"[\w.-]+==[\w.]+", pin) for pin in pins("requirements-dev.txt"))


def test_every_dependency_has_its_line_of_reason() -> None:
    reasons = (rules.TOP / "docs/decisions/0002-dependencies.md").read_text(encoding="utf-8")
    for name in ("requirements.in", "requirements-dev.in"):
        for pin in pins(name):
            if not pin.startswith("-r"):
                assert f"| `{re.split(r'[<>=[]', pin)[0]}` |" in reasons


def test_nested_lint_settings_add_to_the_bans_or_lift_the_wire_alone() -> None:
    everywhere = banned_calls(".")
    assert everywhere >= WIRE
    assert banned_calls("platform/mailcore") > everywhere
    for folder in BAN_FREE:
        assert banned_calls(folder) == everywhere - WIRE


@pytest.mark.parametrize(
    ("folder", "source", "is_banned"),
    [
        ("platform/mailcore", "from datetime import UTC, datetime\n\ndatetime.now(UTC)\n", True),
        ("platform/mailcore", "from time import monotonic\n\nmonotonic()\n", True),
        ("platform/mailio", "from datetime import UTC, datetime\n\ndatetime.now(UTC)\n", False),
        ("platform/mailio", "import time\n\ntime.sleep(1)\n", True),
        ("platform/mailio", "import smtplib\n\nsmtplib.SMTP()\n", False),
        ("platform/control", "import smtplib\n\nsmtplib.SMTP()\n", True),
        ("workers", "from celery import shared_task\n\nshared_task()\n", True),
    ],
)
def test_ruff_bans_what_the_folder_bans(folder: str, source: str, is_banned: bool) -> None:
    # A source is only read by ruff, never run: the one that sleeps shows that the ban bites.
    ruff = str(Path(sys.executable).with_name("ruff"))
    options = ["--no-cache", "--select=TID251", f"--stdin-filename={folder}/sample.py"]
    done = subprocess.run(
        [ruff, "check", *options, "-"],
        cwd=rules.TOP,
        input=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == int(is_banned), done.stdout + done.stderr
    assert ("TID251" in done.stdout) is is_banned


def test_types_and_tests_know_django() -> None:
    config = configparser.ConfigParser()
    config.read(rules.TOP / "setup.cfg", encoding="utf-8")
    assert config["tool:pytest"]["DJANGO_SETTINGS_MODULE"] == "control.settings_test"
    assert "mypy_django_plugin.main" in config["mypy"]["plugins"]


def test_only_loopback_can_be_reached_from_a_test() -> None:
    with socket.create_server(("127.0.0.5", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    with (
        socket.socket() as far,
        pytest.warns(UserWarning, match=r"192\.0\.2\.1"),
        pytest.raises(SocketConnectBlockedError),
    ):
        far.connect(("192.0.2.1", 25))


# --- the suite runner ----------------------------------------------------------------------------


def report(folder: Path, cases: str) -> Path:
    """Write a JUnit file as pytest does."""
    path = folder / "core.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>", encoding="utf-8")
    return path


def test_only_names_suites_in_running_order() -> None:
    assert suites.parse_only("") == suites.SUITES
    assert suites.parse_only("io, core") == ("core", "io")
    with pytest.raises(ValueError, match="no suite named wokers"):
        suites.parse_only("core,wokers")


def test_a_report_is_counted_and_every_skip_keeps_its_reason(tmp_path: Path) -> None:
    cases = (
        '<testcase classname="t" name="a"/>'
        '<testcase classname="t" name="b"><failure/></testcase>'
        '<testcase classname="t" name="c"><error/></testcase>'
        '<testcase classname="t" name="d"><skipped message="no tool"/></testcase>'
    )
    result = suites.read_report("core", report(tmp_path, cases), exit_code=1, seconds=1.5)
    assert (result.passed, result.failed, result.skips) == (1, 2, (("t.d", "no tool"),))
    assert not result.is_good


def test_a_report_names_the_real_services_behind_its_suite(tmp_path: Path) -> None:
    told = [("service", "redis 7.0"), ("other", "x"), ("service", "rabbitmq 3.10")]
    told.append(told[0])
    properties = "".join(f'<property name="{name}" value="{value}"/>' for name, value in told)
    cases = f'<properties>{properties}</properties><testcase classname="t" name="a"/>'
    result = suites.read_report("io", report(tmp_path, cases), exit_code=0, seconds=1.5)
    assert result.services == ("rabbitmq 3.10", "redis 7.0")
    assert result.passed == 1


@pytest.mark.parametrize(
    ("cases", "exit_code", "coverage_code", "complaint"),
    [
        ("", 5, 0, "no test was found"),
        ("", 0, 0, "no test was found"),
        ('<testcase name="a"/>', 3, 0, "pytest exited 3"),
        ('<testcase name="a"/>', 0, 2, "coverage is below"),
    ],
)
def test_a_suite_that_did_not_do_its_work_fails(
    tmp_path: Path, cases: str, exit_code: int, coverage_code: int, complaint: str
) -> None:
    result = suites.read_report(
        "core",
        report(tmp_path, cases),
        exit_code=exit_code,
        seconds=0.1,
        coverage_code=coverage_code,
    )
    assert complaint in result.line()
    assert not result.is_good


def test_a_suite_without_a_report_fails(tmp_path: Path) -> None:
    result = suites.read_report("core", tmp_path / "none.xml", exit_code=4, seconds=0.1)
    assert not result.is_good


def test_what_fails_once_and_passes_alone_is_named_and_what_fails_twice_fails(
    tmp_path: Path,
) -> None:
    failing = "".join(f'<testcase classname="t" name="{n}"><failure/></testcase>' for n in "abc")
    first = suites.read_report("io", report(tmp_path, failing), exit_code=1, seconds=1.5)
    assert suites.is_repeatable(first)
    again = (
        '<testcase classname="t" name="a"/><testcase classname="t" name="b"><failure/></testcase>'
    )
    second = suites.read_report("io", report(tmp_path, again), exit_code=1, seconds=0.5)
    result = suites.after_repeat(first, second)
    assert (result.passed, result.failures, result.unsteady) == (1, ("t.b", "t.c"), ("t.a",))
    assert result.seconds == 2.0
    assert not result.is_good
    assert "unsteady=1" in result.line()


def test_the_file_of_a_failed_test_is_found_by_its_name() -> None:
    found = suites.file_of("tests.architecture.test_house.test_x[a.b]")
    assert found == Path("tests/architecture/test_house.py")
    assert suites.file_of("tests.e2e.test_gone.test_x") == Path("tests/e2e")


@pytest.mark.parametrize(
    ("suite", "failures", "exit_code", "is_repeated"),
    [("io", 3, 1, True), ("io", 4, 1, False), ("core", 1, 1, False), ("io", 0, 3, False)],
)
def test_only_a_few_failures_of_what_waits_for_others_are_repeated(
    tmp_path: Path, suite: str, failures: int, exit_code: int, is_repeated: bool
) -> None:
    cases = '<testcase classname="t" name="ok"/>'
    for number in range(failures):
        cases += f'<testcase classname="t" name="{number}"><failure/></testcase>'
    result = suites.read_report(suite, report(tmp_path, cases), exit_code=exit_code, seconds=0.1)
    assert suites.is_repeatable(result) is is_repeated


# --- the ban on the ORM --------------------------------------------------------------------------


MARKED = "@pytest.mark.django_db\ndef test_it(): pass\n"
BY_FIXTURE = "def test_it(db): pass\n"
BY_FIXTURE_OF_A_FIXTURE = """
@pytest.fixture
def rows(transactional_db): pass
def test_it(rows): pass
"""
BY_CLASS = """
from django.test import TestCase
class TestIt(TestCase):
    def test_it(self): pass
"""
FREE_CLASS = BY_CLASS.replace("TestCase", "SimpleTestCase")
FREE = "def test_it(): pass\n"


@pytest.mark.parametrize(
    ("suite", "source", "is_refused"),
    [
        ("core", MARKED, True),
        ("io", BY_FIXTURE, True),
        ("workers", BY_FIXTURE_OF_A_FIXTURE, True),
        ("io", BY_CLASS, True),
        ("workers", FREE_CLASS, False),
        ("control", MARKED, False),
        ("core", FREE, False),
    ],
    ids=["mark", "fixture", "nested fixture", "class", "free class", "control", "free"],
)
def test_django_database_is_refused_in_core_io_and_workers(
    tmp_path: Path, suite: str, source: str, is_refused: bool
) -> None:
    folder = tmp_path / "tests" / suite
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    shutil.copy(rules.TOP / "tests" / "conftest.py", folder.parent)
    shutil.copy(rules.TOP / "setup.cfg", tmp_path)
    (folder / "test_it.py").write_text(f"import pytest\n{source}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "tests"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(rules.TOP / "platform"), "DJANGO_SETTINGS_MODULE": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (4 if is_refused else 0), done.stdout + done.stderr
    assert ("database is banned" in done.stderr) is is_refused

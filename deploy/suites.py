"""Run the test suites, two at a time, and say, in one line each, what came of them.

Gives: the work of `make test`: one pytest process a suite, then a table of passed, failed, skipped
    and seconds, and below it every skipped test with its reason. The files of a few tests
    that failed are run once more, alone; what passes then is named as unsteady. While two suites
    run side by side each writes to var/test/<suite>.log, printed whole when the suite has ended.
Takes: the names of the suites wanted, separated by commas; nothing means all. LANES=1 runs one at
    a time and shows what it says at once, as does a single suite.
Raises: nothing; exit status 1 if a test failed or a suite ran none, 2 for a name unknown, 130 when
    it was interrupted.
Follows: JUnit XML as pytest writes it; docs/decisions/0014, docs/decisions/0015.
"""

import contextlib
import functools
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO
from xml.etree import ElementTree

from deploy.lanes import Lanes

# The first lane takes from the front, the second from the back, where whole fleets wait for mail.
SUITES = ("core", "io", "control", "workers", "contract", "architecture", "browser", "e2e")
LANES = 2
# Its branch coverage is a bar, so this suite alone is measured; setup.cfg holds the bar.
MEASURED = "core"
# These run without the control plane, so that a broken one cannot hide what they have to say.
WITHOUT_DJANGO = frozenset({"core", "io"})
# These wait for nobody: what fails in them fails again.
NEVER_REPEATED = frozenset({"core", "contract", "architecture"})
# More failures than this are no accident of a busy machine.
MOST_REPEATED = 3
TOP = Path(__file__).resolve().parent.parent
REPORTS = TOP / "var" / "test"


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What one suite came to; `complaint` says why it counts as failed beyond its failed tests,
    `services` which real services stood behind it, `unsteady` what passed only when alone."""

    name: str
    passes: tuple[str, ...]
    failures: tuple[str, ...]
    skips: tuple[tuple[str, str], ...]
    seconds: float
    complaint: str = ""
    services: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()

    @property
    def passed(self) -> int:
        """Return how many tests passed, at the first try or the second."""
        return len(self.passes)

    @property
    def failed(self) -> int:
        """Return how many tests failed."""
        return len(self.failures)

    @property
    def is_good(self) -> bool:
        """Return whether the suite ran and nothing in it failed."""
        return not self.failed and not self.complaint

    def line(self) -> str:
        """Return the suite's row of the table."""
        row = (
            f"{self.name:<13} passed={self.passed:<5} failed={self.failed:<4} "
            f"skipped={len(self.skips):<4} {self.seconds:6.1f} s"
        )
        unsteady = f"  unsteady={len(self.unsteady)}" if self.unsteady else ""
        return f"{row}{unsteady}  {self.complaint}".rstrip()


def parse_only(text: str) -> tuple[str, ...]:
    """Return the suites named in a comma-separated list, in running order; all for an empty one."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names.difference(SUITES))
    if unknown:
        raise ValueError(
            f"ONLY: no suite named {', '.join(unknown)}; there are {', '.join(SUITES)}"
        )
    return tuple(name for name in SUITES if name in names) or SUITES


def read_report(
    name: str, report: Path, *, exit_code: int, seconds: float, coverage_code: int = 0
) -> SuiteResult:
    """Read pytest's JUnit file; a suite without one, or without a test, is a failed suite."""
    if not report.is_file():
        why = f"FAILED: pytest exited {exit_code} before it could report"
        return SuiteResult(name, (), (), (), seconds, why)
    passes: list[str] = []
    failures: list[str] = []
    skips: list[tuple[str, str]] = []
    tree = ElementTree.parse(report).getroot()  # noqa: S314 (own file)
    for case in tree.iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failures.append(_case_name(case))
        elif skip is not None:
            skips.append((_case_name(case), skip.get("message", "")))
        else:
            passes.append(_case_name(case))
    complaint = ""
    if exit_code == 5 or not (passes or failures or skips):
        complaint = "FAILED: no test was found"
    elif exit_code and not failures:
        complaint = f"FAILED: pytest exited {exit_code}"
    elif coverage_code:
        complaint = "FAILED: branch coverage is below the bar"
    named = {one.get("value", "") for one in tree.iter("property") if one.get("name") == "service"}
    services = tuple(sorted(named))
    return SuiteResult(
        name, tuple(passes), tuple(failures), tuple(skips), seconds, complaint, services
    )


def after_repeat(first: SuiteResult, again: SuiteResult) -> SuiteResult:
    """Return what a suite came to when the files of its failures were run once more, alone."""
    steady = set(again.passes).difference(again.failures)
    unsteady = tuple(name for name in first.failures if name in steady)
    return replace(
        first,
        passes=first.passes + unsteady,
        failures=tuple(name for name in first.failures if name not in steady),
        seconds=first.seconds + again.seconds,
        unsteady=unsteady,
    )


def is_repeatable(result: SuiteResult) -> bool:
    """Return whether a busy machine may explain what failed in a suite."""
    if result.complaint or result.name in NEVER_REPEATED:
        return False
    return 0 < result.failed <= MOST_REPEATED


def _case_name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '')}.{case.get('name', '')}".lstrip(".")


def run_suite(name: str, lanes: Lanes) -> SuiteResult:
    """Run one suite to its end and read what it reported."""
    folder = TOP / "tests" / name
    if not folder.is_dir():
        return SuiteResult(name, (), (), (), 0.0, f"FAILED: there is no tests/{name}")
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    with _said(name, is_shown_at_once=lanes.count == 1) as out:
        exit_code, coverage_code = _call(name, report, lanes, out, [f"tests/{name}"])
    seconds = time.monotonic() - began
    return read_report(
        name, report, exit_code=exit_code, seconds=seconds, coverage_code=coverage_code
    )


def repeat_failures(result: SuiteResult, lanes: Lanes) -> SuiteResult:
    """Run the files of the failed tests once more, without the tests that kill: what those count
    as lost or doubled stays counted."""
    print(f"== {result.name}: what failed, once more", flush=True)
    report = REPORTS / f"{result.name}.again.xml"
    report.unlink(missing_ok=True)
    files = sorted({str(file_of(name)) for name in result.failures})
    began = time.monotonic()
    exit_code, _ = _call(result.name, report, lanes, None, [*files, "-m", "not kill"])
    seconds = time.monotonic() - began
    again = read_report(result.name, report, exit_code=exit_code, seconds=seconds)
    return after_repeat(result, again)


def file_of(test: str) -> Path:
    """Return the file of a test by its dotted name; files may send what their tests look at."""
    parts = test.split(".")
    paths = (Path(*parts[:count]).with_suffix(".py") for count in range(len(parts), 0, -1))
    return next((path for path in paths if (TOP / path).is_file()), Path("tests", parts[1]))


def _call(
    name: str, report: Path, lanes: Lanes, out: IO[bytes] | None, what: Sequence[str]
) -> tuple[int, int]:
    """Return the exit codes of pytest and, where it is measured, of the bar of coverage."""
    runner = ["coverage", "run", "-m"] if name == MEASURED else []
    # What failed last is remembered by suite: two that end together do not overwrite each other.
    memory = f"cache_dir=var/cache/pytest/{name}"
    command = [*runner, "pytest", *what, f"--junitxml={report}", "-o", memory]
    settings = {"DJANGO_SETTINGS_MODULE": ""} if name in WITHOUT_DJANGO else {}
    call = functools.partial(lanes.call, cwd=TOP, env={**os.environ, **settings}, out=out)
    exit_code = call([sys.executable, "-m", *command])
    if name != MEASURED or exit_code:
        return exit_code, 0
    return exit_code, call([sys.executable, "-m", "coverage", "report"])


_printing = threading.Lock()


@contextlib.contextmanager
def _said(name: str, *, is_shown_at_once: bool) -> Iterator[IO[bytes] | None]:
    """Give a suite the file it talks to, and print that when the suite has ended."""
    if is_shown_at_once:
        print(f"== {name}", flush=True)
        yield None
        return
    with _printing:
        print(f"-- {name} begins", flush=True)
    log = REPORTS / f"{name}.log"
    try:
        with log.open("wb") as out:
            yield out
    finally:
        with _printing, log.open("rb") as said:
            print(f"== {name}", flush=True)
            shutil.copyfileobj(said, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def print_summary(results: list[SuiteResult]) -> None:
    """Print the table with the services behind each suite, and each skipped test with its reason,
    alike ones together."""
    print("\n== suites")
    for result in results:
        print(result.line())
        if result.services:
            print(f"{'':<13} on {', '.join(result.services)}")
    reasons: dict[str, list[str]] = {}
    for result in results:
        for test, reason in result.skips:
            reasons.setdefault(f"skipped: {reason}", []).append(test)
        for test in result.unsteady:
            reasons.setdefault("unsteady: failed among the others, passed alone", []).append(test)
    for reason, tests in reasons.items():
        print(reason)
        for test in tests:
            print(f"    {test}")


def count_lanes(environ: Mapping[str, str]) -> int:
    """Return how many suites run side by side: LANES, or as many as there are processors for."""
    asked = environ.get("LANES", "")
    return int(asked) if asked.isdecimal() else min(LANES, len(os.sched_getaffinity(0)))


def _leave(number: int, frame: FrameType | None) -> None:
    """End in order at a SIGTERM: the suites under way are ended too."""
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Run what was asked for; return the exit status."""
    try:
        wanted = parse_only(",".join(arguments))
    except ValueError as exc:
        print(exc, file=sys.stderr)
        return 2
    REPORTS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _leave)
    lanes = Lanes(wanted, count_lanes(os.environ))
    try:
        results = lanes.run(functools.partial(run_suite, lanes=lanes))
        results = [repeat_failures(one, lanes) if is_repeatable(one) else one for one in results]
    except KeyboardInterrupt:
        print("test: interrupted")
        return 130
    print_summary(results)
    bad = [result.name for result in results if not result.is_good]
    print(f"test: FAILED: {', '.join(bad)}" if bad else "test: ok")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the suites of the embedded stack share: processes to hold stacks, and patience."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2

TOP = Path(__file__).resolve().parents[3]


def bare_environment() -> dict[str, str]:
    """The environment without what would replace a service."""
    return {name: value for name, value in os.environ.items() if not name.endswith("_URL")}


def eventually(check: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Wait until something holds; the time is a bound for a broken run, not an assertion."""
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"it did not come about within {within_s:g} s"
        pause(0.02)


def pause(seconds: float) -> None:
    time.sleep(seconds)  # noqa: TID251 - between two looks at another process


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes_in(directory: Path) -> list[str]:
    """Return the command lines of all processes that work in or name a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(directory) in command or str(directory) in os.readlink(entry / "cwd"):
                found.append(f"{entry.name} {command}")
    return found


def query(url: str, sql: str) -> Any:
    """Run one statement and return the first column of its first row, if it has one."""
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


class Holder:
    """A process of `holder.py`."""

    def __init__(
        self, directory: Path, services: Sequence[str], prefix: Sequence[str] = (), **env: str
    ) -> None:
        module = ["-m", "tests.io.embedded.holder", str(directory), ",".join(services)]
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=TOP,
            env={**bare_environment(), "PYTHONPATH": f"{TOP}:{TOP / 'platform'}", **env},
            start_new_session=True,
        )

    def read(self) -> dict[str, Any]:
        """Return its next line; its complaint is the test's if it ends instead."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            try:
                self.process.wait(60)
            finally:
                self.process.kill()


@contextlib.contextmanager
def holding(
    directory: Path, services: Sequence[str], prefix: Sequence[str] = (), **env: str
) -> Iterator[Holder]:
    """Have another process hold a stack as long as the block runs."""
    holder = Holder(directory, services, prefix, **env)
    try:
        yield holder
    finally:
        holder.close()


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that any user can reach, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="postfleet-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # noqa: S103 - that is the point of it
        yield Path(name)

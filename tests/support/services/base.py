"""One private daemon of the test stack: its directory, its system user, its life.

Takes    a name, the command, what says that it is ready
Gives    Daemon: start(), kill(), pid; Account and account(); home(); require(); MissingService
Raises   MissingService when its package is not installed, or only root could run it; StartError
         with the end of its log when it does not come up
Follows  platform/embedded/guard.py: each daemon runs under a guard that ends it, and all it has
         started, when this process is gone, `kill -9` included

The data is thrown away, so a daemon is never asked to end: SIGKILL is seconds faster.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded.child import Child
from embedded.identity import can_others_reach
from embedded.procs import tail
from embedded.supervise import Supervisor
from tests.support.ports import free_port as free_port

LOOPBACK = "127.0.0.1"
START_S = 120.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MissingService(Exception):
    """A service cannot be had on this machine; the text says why and what would help."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system user a daemon runs as; `uid` is None where that is ourselves."""

    name: str
    uid: int | None
    gid: int | None

    def own(self, *paths: Path) -> None:
        """Give files and directories to this user."""
        if self.uid is not None and self.gid is not None:
            for path in paths:
                os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account(*names: str) -> Account:
    """Return the first of these users that exists, if we are root and so may choose."""
    if os.geteuid() != 0:
        return Account(pwd.getpwuid(os.geteuid()).pw_name, None, None)
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise MissingService(f"there is no system user {' or '.join(names)}")


def require(command: str, package: str) -> str:
    """Return the path of a command, or raise MissingService naming the package that has it."""
    found = shutil.which(command, path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if found is None:
        raise MissingService(
            f"{package} is not installed (make test as root installs it where apt-get is)"
        )
    return found


@functools.cache
def _top() -> Path:
    # Daemons of several users live below; what is secret has a closed directory of its own.
    place = Path(tempfile.gettempdir())
    if os.geteuid() == 0 and not can_others_reach(place):
        place = Path("/tmp")
    directory = Path(tempfile.mkdtemp(prefix="postfleet-services-", dir=place))
    directory.chmod(0o755)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def home(name: str, owner: Account, *parts: str) -> Path:
    """Make the directory of a daemon, and directories in it, for its user alone."""
    directory = _top() / name
    made = [directory, *(directory / part for part in parts)]
    for path in made:
        path.mkdir(mode=0o700)
    owner.own(*made)
    return directory


def write(path: Path, text: str, owner: Account, *, mode: int = 0o600) -> Path:
    """Write a configuration file that its daemon alone may read."""
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    owner.own(path)
    return path


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a daemon: nothing of ours but what it is given here."""
    return {"PATH": _PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", **extra}


def greets(port: int, expected: bytes) -> bool:
    """Return whether a server on loopback opens with these bytes."""
    with socket.create_connection((LOOPBACK, port), timeout=2) as line:
        line.settimeout(2)
        return line.recv(512).startswith(expected)


def is_open(port: int, address: str = LOOPBACK) -> bool:
    """Return whether a server on this machine takes connections."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


class Daemon:
    """One process under a guard; it is started again only when asked."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str],
        *,
        directory: Path,
        owner: Account,
        ready: Callable[[], bool],
    ) -> None:
        self._name = name
        self._logs = directory.with_name(f"{directory.name}.log")
        self._child = Child(
            name,
            tuple(str(part) for part in argv),
            env,
            cwd=directory,
            ready=ready,
            ready_timeout_s=START_S,
            stop_signal=signal.SIGKILL,
            stop_timeout_s=1.0,
            uid=owner.uid,
            gid=owner.gid,
        )
        self._supervisor = self._fresh()

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._supervisor.pids().get(self._name)

    @property
    def output(self) -> str:
        """The end of what it printed."""
        return tail(self._logs / f"{self._name}.log", lines=40)

    @property
    def whole_output(self) -> str:
        """All it printed."""
        return (self._logs / f"{self._name}.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it is ready."""
        if self.pid is None:
            self._supervisor = self._fresh()
            self._supervisor.start()

    def kill(self) -> None:
        """End it, and all it has started, with SIGKILL; return when they are gone."""
        self._supervisor.stop()

    def _fresh(self) -> Supervisor:
        supervisor = Supervisor(self._logs)
        supervisor.add_child(self._child)
        return supervisor

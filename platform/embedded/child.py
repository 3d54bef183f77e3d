"""A process to be supervised, and what is known of it.

Takes    what the guard needs to run it
Gives    Child, ChildState, ChildStatus; the line that tells the guard what to run; Run and Slot,
         which are the supervisor's own
Raises   nothing
Follows  the fields described in `embedded/guard.py`
"""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

LOG_BYTES = 16 * 1024 * 1024


class ChildState(Enum):
    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Child:
    """What to run, and how; the fields after `log_bytes` are for the private services."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None = None
    ready: Callable[[], bool] | None = None
    ready_timeout_s: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    log_bytes: int = LOG_BYTES
    lock: Path | None = None
    lock_timeout_s: float = 10.0
    pid_file: Path | None = None
    uid: int | None = None
    gid: int | None = None

    def guard_spec(self, log_path: Path) -> str:
        return json.dumps(
            {
                "argv": self.argv,
                "cwd": None if self.cwd is None else str(self.cwd),
                "log": str(log_path),
                "log_bytes": self.log_bytes,
                "stop_signal": int(self.stop_signal),
                "stop_timeout_s": self.stop_timeout_s,
                "parent_pid": os.getpid(),
                "lock": None if self.lock is None else str(self.lock),
                "lock_timeout_s": self.lock_timeout_s,
                "pid_file": None if self.pid_file is None else str(self.pid_file),
                "uid": self.uid,
                "gid": self.gid,
            }
        )


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """`up_s` is how long the run that goes on now has lasted, None if there is none."""

    name: str
    state: ChildState
    pid: int | None
    restarts: int
    log: Path
    up_s: float | None = None


@dataclass(slots=True, eq=False)
class Run:
    """One life of a child: its guard, and the socket whose end means the end."""

    guard: subprocess.Popen[bytes]
    control: socket.socket
    began_at: float
    pid: int | None = None
    code: int | None = None
    reason: str | None = None
    received: bytes = b""
    probe_fault: str = ""
    is_given_up: bool = False

    def how_it_ended(self) -> str:
        if self.reason is not None:
            return f"could not be run: {self.reason}"
        if self.code is None:
            return "lost its guard"
        if self.code < 0:
            return f"was ended by signal {-self.code}"
        return f"ended with exit code {self.code}"


@dataclass(slots=True, eq=False)
class Slot:
    child: Child
    log: Path
    state: ChildState = ChildState.IDLE
    run: Run | None = None
    restarts: int = 0
    failures: int = 0
    restart_at: float = 0.0
    is_kept_down: bool = False
    is_awaited: bool = True
    ended: threading.Event = field(default_factory=threading.Event)

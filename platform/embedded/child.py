"""A process to be supervised, and what is known of it.

Takes    what the guard needs to run it
Gives    Child, ChildState, ChildStatus; the line that tells the guard what to run
Raises   nothing
Follows  the fields described in `embedded/guard.py`
"""

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    name: str
    state: ChildState
    pid: int | None
    restarts: int
    log: Path

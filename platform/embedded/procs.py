"""Look at processes, ports and logs of this machine.

Gives    ProcessId: a pid that cannot be mistaken for a later process of the same number;
         a free port below the ephemeral range; the last lines of a log
Raises   OSError when no port is free
Follows  proc(5)
"""

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

LOWEST_PORT = 18_000
HIGHEST_PORT = 31_999


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid with the moment its process began, in clock ticks since the boot named."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of a running process, or None."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The name in parentheses may hold spaces and parentheses of its own.
        fields = stat.rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return None
        return cls(pid, int(fields[19]), boot_id())

    @classmethod
    def from_fields(cls, fields: object) -> Self | None:
        """Read back what `fields` wrote; None if it is not that."""
        match fields:
            case {"pid": int(pid), "start_ticks": int(ticks), "boot_id": str(boot)}:
                return cls(pid, ticks, boot)
            case _:
                return None

    def fields(self) -> dict[str, int | str]:
        return {"pid": self.pid, "start_ticks": self.start_ticks, "boot_id": self.boot_id}

    def is_alive(self) -> bool:
        return ProcessId.of(self.pid) == self


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def is_port_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(*, preferred: int | None = None) -> int:
    """Return a port nobody listens on, the preferred one if it is free.

    Drawn at random and not counted up, so two stacks that start together do not choose the same.
    """
    if preferred is not None and is_port_free(preferred):
        return preferred
    for _ in range(200):
        port = LOWEST_PORT + secrets.randbelow(HIGHEST_PORT - LOWEST_PORT + 1)
        if is_port_free(port):
            return port
    raise OSError(f"no free port between {LOWEST_PORT} and {HIGHEST_PORT}")


def tail(path: Path, *, lines: int = 12) -> str:
    """Return the last lines of a log, "" if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 8192))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])

"""The private ClickHouse: chdb in one owner process, reached over a local socket.

Takes    the run directory
Gives    the child that runs the owner, a readiness probe, its URL
Raises   OSError when no short directory for the socket can be made
Follows  the protocol in `embedded/chdb_owner.py`
"""

import json
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from embedded.child import Child
from embedded.rundir import RunDir

NAME = "chdb"
# As `python -m embedded.chdb_owner`, whatever the working directory and PYTHONPATH are.
RUN_OWNER = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    " from embedded.chdb_owner import main; sys.exit(main())"
)
SOURCE_ROOT = Path(__file__).resolve().parents[1]
# sun_path holds 108 bytes with the closing zero; the owner binds under a draft name first.
LONGEST_SOCKET_PATH = 96


@dataclass(frozen=True, slots=True)
class Chdb:
    run_dir: RunDir

    @property
    def data(self) -> Path:
        return self.run_dir.data(NAME)

    def socket_path(self, preferred: str | None) -> Path:
        """Return where the socket goes: in the run directory, or a short private one."""
        path = self.run_dir.root.resolve() / "run" / "chdb.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        if preferred is not None and _is_private(Path(preferred).parent):
            return Path(preferred)
        base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108 - mkdtemp makes it private
        return Path(tempfile.mkdtemp(prefix="postfleet-", dir=base)) / "chdb.sock"

    def url(self, path: Path) -> str:
        return f"chdb+unix://{quote(str(path))}"

    def child(self, path: Path, env: Mapping[str, str], *, ready_timeout_s: float) -> Child:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        run = (sys.executable, "-P", "-c", RUN_OWNER, str(SOURCE_ROOT))
        return Child(
            NAME,
            (*run, "--data", str(self.data.resolve()), "--socket", str(path)),
            env,
            cwd=self.data,
            ready=lambda: answers(path),
            ready_timeout_s=ready_timeout_s,
            stop_timeout_s=30.0,
            lock=self.run_dir.lock(NAME),
        )


def remove_socket(path: Path, run_dir: RunDir) -> None:
    """Remove the socket of a stopped owner, and its directory if that was made for it."""
    path.unlink(missing_ok=True)
    if path.parent != run_dir.root.resolve() / "run" and path.parent.is_dir():
        path.parent.rmdir()


def answers(path: Path, *, timeout_s: float = 5.0) -> bool:
    """Return whether the owner runs a query."""
    header = json.dumps({"query": "SELECT 1", "format": "TSV", "body_length": 0}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(struct.pack("!I", len(header)) + header)
        with connection.makefile("rb") as stream:
            (size,) = struct.unpack("!I", stream.read(4).ljust(4, b"\0"))
            answer = stream.read(size)
    return bool(answer) and json.loads(answer)["ok"] is True


def _is_private(directory: Path) -> bool:
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return status.st_uid == os.geteuid() and status.st_mode & 0o077 == 0

"""The directory of one stack: `var/`.

    run/<service>.json   where a running service listens and which process it is
    run/<service>.lock   held as long as the service lives
    secret/<service>     its password, 0600
    log/<service>.log    its output
    postgres/ valkey/ chdb/ spool/   its data

Gives    paths, passwords, service records
Raises   OSError when the directory cannot be written
"""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded.errors import StackBusy
from embedded.procs import ProcessId


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """What one process writes for the others: who runs the service, and where it listens."""

    process: ProcessId | None
    owner: ProcessId | None
    address: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunDir:
    root: Path

    def create(self) -> None:
        for name in ("", "run", "secret", "log"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        return self.root / "log"

    def data(self, service: str) -> Path:
        return self.root / service

    def lock(self, service: str) -> Path:
        return self.root / "run" / f"{service}.lock"

    def password(self, service: str) -> str:
        """Return the service's password, drawn when first asked for."""
        path = self.root / "secret" / service
        with contextlib.suppress(FileNotFoundError):
            if text := path.read_text().strip():
                return text
        write_private(path, secrets.token_urlsafe(24) + "\n")
        return path.read_text().strip()

    def read_record(self, service: str) -> ServiceRecord:
        """Return what is known of a service; an unreadable record is an empty one."""
        try:
            fields = json.loads((self.root / "run" / f"{service}.json").read_text())
        except (OSError, ValueError):
            fields = {}
        if not isinstance(fields, dict):
            fields = {}
        address = fields.get("address")
        return ServiceRecord(
            ProcessId.from_fields(fields.get("process")),
            ProcessId.from_fields(fields.get("owner")),
            address if isinstance(address, dict) else {},
        )

    def write_record(self, service: str, record: ServiceRecord) -> None:
        fields = {
            "process": record.process.fields() if record.process else None,
            "owner": record.owner.fields() if record.owner else None,
            "address": dict(record.address),
        }
        write_private(self.root / "run" / f"{service}.json", json.dumps(fields, indent=1) + "\n")

    @contextlib.contextmanager
    def starting(self, timeout_s: float) -> Iterator[None]:
        """Be the only process that starts or stops services here; StackBusy after the timeout."""
        fd = os.open(self.root / "run" / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + timeout_s
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise StackBusy(
                        f"another process has been starting the stack in {self.root} "
                        f"for {timeout_s:g} s"
                    )
                pause(0.05)
            yield
        finally:
            os.close(fd)


def pause(seconds: float) -> None:
    """Wait a moment between two looks at another process."""
    time.sleep(seconds)  # noqa: TID251 - start-up code, no loop of events runs here


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(draft, path)

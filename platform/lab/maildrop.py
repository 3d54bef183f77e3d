"""A mailbox on disk: mails in the order they came, each with the report it is, if it is one.

Gives    Maildrop: append(), read(), remove(), listing(), acquire(), release(), clear(), close();
         Report, ReportKind
Takes    a file. Mails and removals are appended as they happen, so that a lab that starts again
         holds what it held and remembers every report, fetched or not; a torn end is cut off
Raises   OSError when the file cannot be written, KeyError for a mail that is gone
Follows  RFC 1939 §7 (unique ids)
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any


class ReportKind(Enum):
    """What a report says of a message that had been accepted."""

    LATE_BOUNCED = "late_bounced"
    COMPLAINED = "complained"


@dataclass(frozen=True, slots=True)
class Report:
    """One (id, recipient) a report was put into a mailbox for. `status` is None in a complaint."""

    kind: ReportKind
    provider: str
    lab_id: str
    recipient: str
    reverse_path: str
    status: str | None
    at: float

    def row(self) -> dict[str, Any]:
        """Return the report as it is kept and shown."""
        row = asdict(self) | {"kind": self.kind.value}
        row["id"] = row.pop("lab_id")
        return row

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "Report":
        """Read what row() gave."""
        fields = dict(row)
        fields["lab_id"] = fields.pop("id")
        return cls(**fields | {"kind": ReportKind(row["kind"])})


@dataclass(frozen=True, slots=True)
class Mail:
    """Where a mail lies."""

    uid: str
    offset: int
    size_bytes: int


class Maildrop:
    """One mailbox. One loop writes it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.reports: list[Report] = []
        self._mails: dict[str, Mail] = {}
        # Part of every unique id: a mailbox made anew repeats none of its predecessor's.
        self._born = f"{time.time_ns() // 1_000_000:x}"
        self._next_uid = 1
        self._end = 0
        self._owner: object | None = None
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._load(path)

    # -- mail ----------------------------------------------------------------------------------

    def append(self, content: bytes, report: Report | None = None) -> str:
        """Put a mail in; return its unique id."""
        uid = f"{self._born}.{self._next_uid:08d}"
        self._next_uid += 1
        frame = {"uid": uid, "size": len(content)}
        head = self._head(frame | ({} if report is None else {"report": report.row()}))
        self._write(head + content)
        self._mails[uid] = Mail(uid, self._end - len(content), len(content))
        if report is not None:
            self.reports.append(report)
        return uid

    def listing(self) -> list[Mail]:
        """Return what is there, oldest first."""
        return list(self._mails.values())

    def read(self, uid: str) -> bytes:
        """Return a mail."""
        mail = self._mails[uid]
        return os.pread(self._fd, mail.size_bytes, mail.offset)

    def remove(self, uids: Iterable[str]) -> None:
        """Take mails out; those that are gone already are no matter."""
        found = [uid for uid in uids if self._mails.pop(uid, None) is not None]
        if found:
            self._write(self._head({"gone": found}))

    @property
    def size_bytes(self) -> int:
        """What all mails weigh."""
        return sum(mail.size_bytes for mail in self._mails.values())

    def __len__(self) -> int:
        return len(self._mails)

    # -- one reader at a time --------------------------------------------------------------------

    def acquire(self, owner: object) -> bool:
        """Let one reader in; False when another is (RFC 1939 §4)."""
        if self._owner is not None and self._owner is not owner:
            return False
        self._owner = owner
        return True

    def release(self, owner: object) -> None:
        """Let the next reader in."""
        if self._owner is owner:
            self._owner = None

    # -- the file ------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget mails and reports. Unique ids go on rising: no reader meets one twice."""
        self._mails.clear()
        self.reports.clear()
        os.ftruncate(self._fd, 0)
        self._end = 0
        self._write(self._head({"next": self._next_uid, "born": self._born}))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    @staticmethod
    def _head(frame: dict[str, Any]) -> bytes:
        return json.dumps(frame, separators=(",", ":")).encode() + b"\n"

    def _write(self, octets: bytes) -> None:
        view = memoryview(octets)
        while view:
            written = os.pwrite(self._fd, view, self._end)
            self._end += written
            view = view[written:]

    def _load(self, path: Path) -> None:
        size = os.fstat(self._fd).st_size
        with path.open("rb") as file:
            while (head := file.readline()).endswith(b"\n"):
                frame = json.loads(head)
                end = file.tell() + frame.get("size", 0)
                if end > size:
                    break
                self._load_frame(frame, file.tell())
                file.seek(end)
                self._end = end
        os.ftruncate(self._fd, self._end)

    def _load_frame(self, frame: dict[str, Any], offset: int) -> None:
        if "next" in frame:
            self._next_uid, self._born = frame["next"], frame["born"]
        elif "gone" in frame:
            for uid in frame["gone"]:
                self._mails.pop(uid, None)
        else:
            uid = frame["uid"]
            self._mails[uid] = Mail(uid, offset, frame["size"])
            self._born, _, number = uid.partition(".")
            self._next_uid = int(number) + 1
            if "report" in frame:
                self.reports.append(Report.of_row(frame["report"]))

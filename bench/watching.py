"""Watch a fleet from outside: peaks of memory, and how long a small stream of mail takes.

Gives    Memory: mark(), peaks(); Stream: a message each 100 ms through the API, arrivals()
Takes    a Running fleet; the pid of PostgreSQL's postmaster
Raises   nothing: a process that ends while it is looked at keeps its last figure

A process's figure is VmHWM, which `mark` sets back to what it uses at that moment. PostgreSQL's
sessions count their share of shared_buffers as theirs there, so of them the memory of their own
(RssAnon) is sampled too.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fleet import Running, descendants

SAMPLE_S = 0.5
EVERY_S = 0.1
DOMAIN = "certa.test"
PREFIX = "stream-"


def _status(pid: int) -> dict[str, int]:
    """Return the sizes in /proc/PID/status, in KiB; nothing if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, value in pairs}


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


@dataclass(slots=True)
class Peaks:
    """KiB at most since `mark`: by process of the fleet; of PostgreSQL's sessions and workers the
    largest (all it maps, and its own), and what all of them had of their own at one moment."""

    processes: dict[str, int] = field(default_factory=dict)
    session_kib: int = 0
    session_own_kib: int = 0
    session_own_title: str = ""
    sessions_own_kib: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON keeps it, in MiB."""
        return {
            "processes_mib": {name: _mib(kib) for name, kib in sorted(self.processes.items())},
            "postgres_session_mib": _mib(self.session_kib),
            "postgres_session_own_mib": _mib(self.session_own_kib),
            "postgres_session_own_title": self.session_own_title,
            "postgres_sessions_own_mib": _mib(self.sessions_own_kib),
        }


def _mib(kib: int) -> float:
    return round(kib / 1024, 1)


class Memory:
    """A thread that samples."""

    def __init__(self, running: Running, postmaster: int) -> None:
        self._running = running
        self._postmaster = postmaster
        self._lock = threading.Lock()
        self._peaks = Peaks()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="memory", daemon=True)
        self._thread.start()

    def mark(self) -> None:
        """Begin anew."""
        with self._lock:
            for _, pid in self._fleet():
                _forget_peak(pid)
            for pid in descendants(self._postmaster):
                _forget_peak(pid)
            self._peaks = Peaks()
        self._sample()

    def peaks(self) -> Peaks:
        """Return the peaks since `mark`."""
        self._sample()
        with self._lock:
            return self._peaks

    def close(self) -> None:
        """Stop sampling."""
        self._stopping.set()
        self._thread.join()

    def _fleet(self) -> Iterable[tuple[str, int]]:
        for name, pid in self._running.fleet.pids().items():
            yield name, pid
            for child in descendants(pid):
                yield name, child

    def _work(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            found = self._peaks
            for name, pid in self._fleet():
                peak = _status(pid).get("VmHWM", 0)
                found.processes[name] = max(found.processes.get(name, 0), peak)
            together = 0
            for pid in descendants(self._postmaster):
                sizes = _status(pid)
                own = sizes.get("RssAnon", 0)
                together += own
                found.session_kib = max(found.session_kib, sizes.get("VmHWM", 0))
                if own > found.session_own_kib:
                    found.session_own_kib = own
                    found.session_own_title = _title(pid)
            found.sessions_own_kib = max(found.sessions_own_kib, together)


def _forget_peak(pid: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass(slots=True)
class _Offered:
    at: float
    answered_at: float
    status: int


class Stream:
    """One client that offers a message at a time and waits for the answer."""

    def __init__(self, running: Running, campaign: str) -> None:
        self._running = running
        self._campaign = campaign
        self._offered: dict[str, _Offered] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Offer nothing more."""
        self._stopping.set()
        self._thread.join()

    def times(
        self, facts: Iterable[Mapping[str, Any]], began: float, ended: float
    ) -> dict[str, Any]:
        """Return how it went for what was offered in a stretch of time (of the wall clock)."""
        arrived: dict[str, float] = {}
        for fact in facts:
            if fact["fate"] == "accepted":
                arrived.setdefault(fact["recipient"], fact["at"])
        part = {to: one for to, one in self._offered.items() if began <= one.at < ended}
        taken = {to: one for to, one in part.items() if one.status == 202}
        delays = [arrived[to] - one.at for to, one in taken.items() if to in arrived]
        answers = [one.answered_at - one.at for one in part.values()]
        return {
            "offered": len(part),
            "accepted": len(taken),
            "arrived": len(delays),
            "answer_ms": _spread(answers),
            "arrival_ms": _spread(delays),
        }

    def _work(self) -> None:
        number = 0
        while not self._stopping.wait(EVERY_S):
            to = f"{PREFIX}{number:07d}@{DOMAIN}"
            document = {
                "from": "news@sender.test",
                "to": [to],
                "subject": f"Number {number}",
                "text": "x" * 2000,
                "headers": {"X-Lab-Id": f"{PREFIX}{number:07d}"},
                "campaign": self._campaign,
            }
            at, status = time.time(), 0
            with contextlib.suppress(OSError):
                status = self._running.api.post(document).status
            self._offered[to] = _Offered(at, time.time(), status)
            number += 1


def _spread(seconds: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and the most, in milliseconds."""
    if len(seconds) < 2:
        return {}
    return {
        "median": round(statistics.median(seconds) * 1000, 1),
        "p95": round(statistics.quantiles(seconds, n=20)[18] * 1000, 1),
        "most": round(max(seconds) * 1000, 1),
    }

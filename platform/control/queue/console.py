"""What the command line says of the queue: tables, and a job followed in place.

Gives    Screen: table, follow; read_duration, read_moment
Raises   Silent when a job gives no sign of life; ValueError that says what is wrong
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from control.jobs.choices import JobState
from control.jobs.models import Job
from mailcore.errors import PostfleetError

LOOK_S = 0.5
_WIDTH = 30
_OPEN = (JobState.WAITING, JobState.RUNNING)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd])")
_MOST_S = 10 * 365 * 86_400


class Silent(PostfleetError):
    """Nobody works on a job."""


class Output(Protocol):
    """What is asked of a command's standard output."""

    def write(self, msg: str = "", style_func: Any = None, ending: str | None = None) -> None: ...
    def isatty(self) -> bool: ...
    def flush(self) -> None: ...


def read_duration(text: str) -> timedelta:
    """Return what `90s`, `30m`, `2h`, `1d` or `1h30m` says."""
    parts = _DURATION.findall(text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no length of time such as 90s, 30m, 2h, 1d or 1h30m")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= _MOST_S:
        raise ValueError(f"{text!r} must be longer than nothing and at most ten years")
    return timedelta(seconds=seconds)


def read_moment(text: str) -> datetime:
    """Return a time; without an offset it is in UTC, as all that is shown here."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ValueError(f"{text!r} is no time such as 2026-05-01T18:00") from exc
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def moment_words(moment: datetime | None) -> str:
    """Return a time in UTC to the second, `-` for none."""
    return "-" if moment is None else f"{moment.astimezone(UTC):%F %T}"


@dataclass(frozen=True, slots=True)
class Screen:
    """Standard output, with what is needed to wait for things to be shown."""

    out: Output
    pause: Callable[[float], object] = field(default_factory=lambda: threading.Event().wait)
    monotonic: Callable[[], float] = time.monotonic

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write rows below their heads; numbers stand to the right."""
        texts = [[_cell(value) for value in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
        self.out.write("  ".join(map(str.ljust, heads, widths)).rstrip())
        for row, shown in zip(rows, texts, strict=True):
            cells = [
                text.rjust(width) if isinstance(value, int) else text.ljust(width)
                for value, text, width in zip(row, shown, widths, strict=True)
            ]
            self.out.write("  ".join(cells).rstrip())

    def follow(self, job_id: int, *, patience_s: float) -> Job:
        """Show the progress of a job until it ends; Silent when nothing moves for so long."""
        seen: object = None
        moved_at = self.monotonic()
        try:
            while True:
                job = Job.objects.get(pk=job_id)
                now = (job.state, job.done_count, job.total_count, job.heartbeat_at)
                if now != seen:
                    seen, moved_at = now, self.monotonic()
                    self._progress(job)
                if job.state not in _OPEN:
                    return job
                silent_s = self.monotonic() - moved_at
                if silent_s >= patience_s:
                    raise Silent(
                        f"job {job_id}: no sign of life for {silent_s:.0f} s. Does worker-control "
                        f"run (`make worker-control`)? The job waits for it; look again with "
                        f"`manage.py queue job {job_id} --follow`"
                    )
                self.pause(LOOK_S)
        finally:
            if self.out.isatty():
                self.out.write()

    def _progress(self, job: Job) -> None:
        text = progress_words(job)
        if self.out.isatty():
            self.out.write(f"\r\033[K{_bar(job)} {text}", ending="")
        else:
            self.out.write(text)
        self.out.flush()


def progress_words(job: Job) -> str:
    """Return how far a job is."""
    done = f"{job.done_count:,}" + ("" if job.total_count is None else f" of {job.total_count:,}")
    waits = f"; it waits for {job.error}" if job.error and job.state in _OPEN else ""
    return f"job {job.pk} {job.state}: {done}{waits}"


def _bar(job: Job) -> str:
    if job.total_count is None:
        return f"[{'?' * _WIDTH}]"
    share = min(1.0, job.done_count / job.total_count) if job.total_count else 1.0
    full = int(share * _WIDTH)
    return f"[{'#' * full}{'.' * (_WIDTH - full)}]"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)

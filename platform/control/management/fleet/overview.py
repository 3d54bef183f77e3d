"""How a fleet stands, for `manage.py fleet status`.

Gives    Overview, ProcessLine; overview_of(); Overview.lines() in words; read_overview()
Takes    what the supervisor knows of its processes, their environment
Raises   FleetError for an answer of another release; a database that is away is told, not raised
Follows  design.md section 6: a node is synced when its workers report the active revision
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from control.management.fleet.house import FleetError
from control.management.fleet.processes import kind_of
from embedded.child import ChildState, ChildStatus
from mailcore.ports import StoreUnavailable
from mailio.settings import host_name
from mailio.snapshots import SnapshotStore

# They hold a policy, and say which.
OBEYING = ("smtpd", "priority", "delivery", "event", "upkeep")
_WORDS = {
    ChildState.IDLE: "not started",
    ChildState.STARTING: "starting",
    ChildState.RUNNING: "running",
    ChildState.WAITING: "waits to be started again",
    ChildState.STOPPED: "stopped",
}


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """One process; `revision` is the policy it reports, None if it reports none."""

    name: str
    state: str
    pid: int | None
    up_s: float | None
    restarts: int
    revision: int | None

    @property
    def is_running(self) -> bool:
        """Whether it runs and was ready."""
        return self.state == ChildState.RUNNING.value


@dataclass(frozen=True, slots=True)
class Overview:
    """A node of a fleet. `fault` says why the policy is not known, if it is not."""

    node: str
    mode: str
    up_s: float
    active_revision: int | None
    fault: str
    processes: tuple[ProcessLine, ...]

    @property
    def behind(self) -> tuple[str, ...]:
        """Processes that ought to report the active revision and do not."""
        obeying = [one for one in self.processes if kind_of(one.name) in OBEYING]
        return tuple(one.name for one in obeying if one.revision != self.active_revision)

    @property
    def is_synced(self) -> bool:
        """Whether every process that obeys policy reports the revision in force."""
        return not self.fault and self.active_revision is not None and not self.behind

    @property
    def is_good(self) -> bool:
        """Whether all runs, by the policy in force."""
        return self.is_synced and all(one.is_running for one in self.processes)

    def lines(self) -> list[str]:
        """Return it in words."""
        rows = [("process", "state", "pid", "up", "restarts", "policy")]
        for one in self.processes:
            words = _WORDS[ChildState(one.state)]
            up, pid = _span(one.up_s), str(one.pid or "-")
            rows.append((one.name, words, pid, up, str(one.restarts), str(one.revision or "-")))
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return [f"node {self.node}, mode {self.mode}, up {_span(self.up_s)}", self._policy, *table]

    @property
    def _policy(self) -> str:
        if self.fault:
            return f"policy: not known: {self.fault}"
        if self.active_revision is None:
            return "policy: none was published; run manage.py seed"
        synced = f"not synced: {', '.join(self.behind)}" if self.behind else "synced"
        return f"policy revision {self.active_revision}, node {synced}"


def overview_of(
    children: Mapping[str, ChildStatus], environment: Mapping[str, str], began: float
) -> Overview:
    """Put together what the supervisor and the database know."""
    node = environment.get("NODE", "") or host_name()
    active, reported, fault = None, dict[int, int](), ""
    store = SnapshotStore(environment["DATABASE_URL"])
    try:
        found = store.active_number()
        active = None if found is None else found[0]
        reported = {_pid(name): number for name, number in store.acknowledged(node).items()}
    except StoreUnavailable as exc:
        fault = exc.reason.splitlines()[0]
    finally:
        store.close()
    lines = tuple(
        ProcessLine(
            one.name, one.state.value, one.pid, one.up_s, one.restarts, reported.get(one.pid or 0)
        )
        for one in children.values()
    )
    up_s = time.monotonic() - began
    return Overview(node, environment["MODE"], up_s, active, fault, lines)


def read_overview(fields: Mapping[str, Any]) -> Overview:
    """Read back what `asdict` made of one."""
    try:
        lines = tuple(ProcessLine(**one) for one in fields["processes"])
        return Overview(**{**fields, "processes": lines})
    except (KeyError, TypeError) as exc:
        raise FleetError("the fleet that runs is of another release: restart it") from exc


def fields_of(overview: Overview) -> dict[str, Any]:
    """Return it as JSON can carry it."""
    return asdict(overview)


def _pid(process: str) -> int:
    """Return the pid in the name a process reports under: node-kind-pid-time."""
    parts = process.rsplit("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else 0


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"

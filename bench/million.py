"""A queue of a million rows: what operators and faults do to it, with mail going on all the time.

Gives    a command: `PYTHONPATH=.:platform python -m bench.million [--rows 1000000] [--keep DIR]`;
         it prints a table and writes bench/results/million.json (--result: elsewhere)
Takes    PostgreSQL 15, RabbitMQ, Redis and ClickHouse of this machine's packages, private
Raises   AssertionError if a step does not come to its end

Each step is timed; beside it stand the peak of memory of each process and how long the messages
took that a program offered meanwhile, one each 100 ms. PostgreSQL runs without fsync, as in the
tests. What is in the queue stands in bench/filling.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.filling import BY_HAND, ENDING, HELD, LIMITED, PURGED, REST, Filling
from bench.watching import DOMAIN, PREFIX, Memory, Stream
from control.management.fleet.house import TOP
from mailcore.holds import HoldScope
from mailio.holds import announce
from tests.support import holds
from tests.support.fleet import Running, eventually, starting
from tests.support.services import ClickhouseServer, PostgresServer, RabbitMq, RedisServer, service

SENDERS = ("priority", "delivery")
QUIET_S = 20.0
RELEASED_S = 15.0
WITHIN_S = 3600.0
RESULT = TOP / "bench" / "results" / "million.json"
_pause = threading.Event().wait

# One message a second from each source to the limited site.
_LIMIT = f"""
from control.access import Actor
from control.audit.changes import policy_change
from control.mta.models import Isp, IspDomain, Strategy
from control.senders.models import Sender, SenderIspStrategy
with policy_change(Actor.system("bench")) as change:
    slow = Strategy(name="slow", connections=1, messages_per_connection=1, connection_attempts=1,
                    interval_s=1.0)
    slow.save(force_insert=True)
    change.created(slow)
    row = SenderIspStrategy(sender=Sender.objects.get(name="demo"), strategy=slow,
                            isp=IspDomain.objects.get(domain="{LIMITED}").isp)
    row.save(force_insert=True)
    change.created(row)
"""

_LEASED = """
SELECT COALESCE(sum(l.leased), 0) FROM ledger_lane l JOIN ledger_route r ON r.site = l.site
 WHERE r.domain = %s
"""


@dataclass(slots=True)
class Step:
    """One thing that was done, and what was seen meanwhile."""

    name: str
    began: float
    ended: float = 0.0
    rows: int = 0
    queued: int = 0
    load: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


class Bench:
    """One run on a fleet that is up."""

    def __init__(self, running: Running, postmaster: int, rows: int) -> None:
        self._running = running
        self._rows = rows
        self._memory = Memory(running, postmaster)
        self._filling = Filling(running)
        self._stream = Stream(running, REST)
        self._hold = 0
        self.steps: list[Step] = []

    def run(self) -> None:
        """Do everything, one after the other."""
        running, filling = self._running, self._filling
        running.fleet.manage("shell", "-c", _LIMIT)
        self._meet_everybody()
        filling.prepare()
        self._stream.start()
        eventually(lambda: self._arrived(time.time() - 60, DOMAIN))
        self._quiet("nothing queued")
        self._kill("killed, nothing queued")
        filling.ends_at = time.time() + 60 + 70e-6 * self._rows
        with self._step("filled") as step:
            filling.fill(self._rows)
            step.rows = self._rows
        self._quiet("queued, left alone")
        self._lifetime()
        ended = self._rows - filling.queued()
        filling.fill(max(ended, 0), (REST, BY_HAND, PURGED))
        self._check("checked")
        self._kill("killed")
        self._restart()
        self._release()
        self._purge()
        self._by_job("expired by hand", BY_HAND, "expire")
        self._check("checked again")
        self._quiet("left alone again")
        self._stream.stop()
        _pause(2.0)
        self.look_at_stream()

    def look_at_stream(self) -> None:
        """Say of each step how long the mail took that was offered meanwhile."""
        facts = list(self._running.lab.facts(recipient_prefix=PREFIX))
        for step in self.steps:
            step.stream = self._stream.times(facts, step.began, step.ended)

    def close(self) -> None:
        """Let go of threads and connections."""
        self._memory.close()
        self._filling.close()

    # ── steps ─────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Step]:
        self._memory.mark()
        step = Step(name, time.time(), queued=self._filling.queued())
        yield step
        step.ended = time.time()
        step.load = round(os.getloadavg()[0], 1)
        step.memory = self._memory.peaks().to_dict()
        self.steps.append(step)
        print(f"{name}: {step.seconds:.1f} s, rows={step.rows} {step.notes}", flush=True)

    def _meet_everybody(self) -> None:
        """Have each place routed, and one message held: the pattern of all that is filled in."""
        self._place_hold()
        for domain in (HELD, LIMITED, DOMAIN):
            message = {"from": "news@sender.test", "to": [f"pattern@{domain}"], "text": "x"}
            self._running.api.accept(message)
        routed = "SELECT count(*) FROM ledger_row WHERE unrouted_domain IS NOT NULL"
        eventually(lambda: self._running.one(routed) == 0)
        eventually(lambda: self._filling.queued() == 1)

    def _quiet(self, name: str) -> None:
        with self._step(name):
            _pause(QUIET_S)

    def _lifetime(self) -> None:
        """The lifetime of a campaign ends, and upkeep finds out by itself."""
        filling = self._filling
        left_s = filling.ends_at - time.time()
        if left_s > 0:
            _pause(left_s)
        with self._step("expired by upkeep") as step:
            step.rows = filling.queued(ENDING)
            step.notes["late_s"] = round(max(-left_s, 0.0), 1)
            eventually(lambda: filling.queued(ENDING) == 0, within_s=WITHIN_S)

    def _check(self, name: str) -> None:
        with self._step(name) as step:
            command = [sys.executable, "manage.py", "check_queue", "--content", "none", "--json"]
            child = subprocess.Popen(
                command, cwd=TOP, env=self._running.fleet.environment, stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            said = json.loads(child.stdout.read())
            _, code, usage = os.wait4(child.pid, 0)
            step.rows = said["rows"]
            step.notes = {
                "exit_code": os.waitstatus_to_exitcode(code),
                "findings": {one["invariant"]: one["count"] for one in said["findings"]},
                "command_mib": round(usage.ru_maxrss / 1024, 1),
            }

    def _kill(self, name: str) -> None:
        """SIGKILL every process that sends; their supervisor starts them again."""
        with self._step(name) as step:
            pids = self._senders()
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            at = time.time()
            took_s = eventually(lambda: self._arrived(at, DOMAIN), within_s=WITHIN_S)
            step.notes["first_arrival_s"] = round(took_s, 1)
            eventually(lambda: self._are_new(pids))
            step.notes["all_back_s"] = round(time.time() - at, 1)
            _pause(QUIET_S)

    def _restart(self) -> None:
        """Stop and start those processes in order, one after the other."""
        with self._step("restarted in order") as step:
            for name in self._senders():
                began = time.time()
                self._running.fleet.stop_one(name)
                stopped = time.time()
                self._running.fleet.start_one(name)
                step.notes[name] = {
                    "stop_s": round(stopped - began, 1),
                    "start_s": round(time.time() - stopped, 1),
                }
            _pause(QUIET_S)

    def _release(self) -> None:
        """Let half of the queue go for a while, and hold it again."""
        with self._step("released and held again") as step:
            before, at = self._accepted_there(), time.time()
            self._end_hold()
            eventually(lambda: self._accepted_there() > before, within_s=WITHIN_S)
            step.notes["released_to_first_s"] = round(time.time() - at, 2)
            _pause(RELEASED_S)
            at = time.time()
            self._place_hold()
            step.notes["obeyed_s"] = round(time.time() - at, 2)
            # What was on the wire ends.
            eventually(lambda: self._running.one(_LEASED, HELD) == 0)
            step.notes["given_back_s"] = round(time.time() - at, 2)
            step.rows = self._accepted_there() - before
            last = self._accepted_there()
            _pause(5.0)
            step.notes["after_that"] = self._accepted_there() - last

    def _purge(self) -> None:
        job = self._by_job("purged", PURGED, "purge")
        with self._step("undone") as step:
            done = self._follow(self._ask(f"/jobs/{job}/undo", reason="bench"))
            step.rows = done["result"]["changed"]

    def _by_job(self, name: str, label: str, verb: str) -> int:
        with self._step(name) as step:
            wanted = {"campaigns": [label]}
            done = self._follow(self._ask(f"/queue/{verb}", filter=wanted, reason="bench"))
            step.rows = done["result"]["changed"]
            step.notes["with_workers"] = done["result"]["with_workers"]
        return int(done["id"])

    # ── the fleet ─────────────────────────────────────────────────────────────────────────────

    def _ask(self, path: str, **document: object) -> dict[str, Any]:
        answer = self._running.api.call(
            "POST", path, json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        assert answer.status in (200, 201, 202), answer.body
        return dict(answer.json())

    def _follow(self, job: dict[str, Any]) -> dict[str, Any]:
        """Wait until a job has ended well; return it."""
        found = job

        def has_ended() -> bool:
            nonlocal found
            _pause(0.5)
            found = self._running.api.call("GET", f"/jobs/{job['id']}").json()
            return found["finished_at"] is not None

        eventually(has_ended, within_s=WITHIN_S, what=lambda: found)
        assert found["state"] == "done", found
        return found

    def _place_hold(self) -> None:
        name = HELD.partition(".")[0].capitalize()
        isp = int(self._running.one("SELECT id FROM mta_isp WHERE name = %s", name))
        self._hold = holds.place(self._running, HoldScope.ISP, target_id=isp)

    def _end_hold(self) -> None:
        self._running.query("UPDATE queue_hold SET released_at = now() WHERE id = %s", self._hold)
        announce(self._running.settings.redis_url)

    def _senders(self) -> dict[str, int]:
        pids = self._running.fleet.pids()
        return {name: pid for name, pid in pids.items() if name.startswith(SENDERS)}

    def _are_new(self, old: dict[str, int]) -> bool:
        lines = self._running.fleet.overview().processes
        up = {one.name for one in lines if one.is_running}
        now = self._senders()
        return set(old) <= up and all(now.get(name) not in (None, pid) for name, pid in old.items())

    def _accepted_there(self) -> int:
        providers = self._running.lab.counts()["providers"]
        return int(providers[HELD.partition(".")[0]]["accepted"])

    def _arrived(self, since: float, domain: str) -> bool:
        """Whether mail of the stream came in since a moment."""
        provider = domain.partition(".")[0]
        facts = self._running.lab.facts(recipient_prefix=PREFIX, provider=provider)
        return any(one["at"] > since and one["fate"] == "accepted" for one in facts)


# ── the result ────────────────────────────────────────────────────────────────────────────────────


def table(steps: list[Step]) -> str:
    """Return the steps as a table for people."""
    kinds = ("delivery", "priority", "event", "upkeep", "control", "web")
    head = (
        f"{'step':<26}{'rows':>9}{'s':>8}{'rows/s':>8}{'median':>8}{'p95':>8}  MiB:"
        + "".join(f"{kind:>9}" for kind in kinds)
        + f"{'session':>9}"
    )
    lines = [head]
    for step in steps:
        arrival = step.stream.get("arrival_ms") or {}
        peaks = step.memory["processes_mib"]
        line = f"{step.name:<26}{step.rows:>9,}{step.seconds:>8.1f}"
        line += f"{step.rows / step.seconds:>8.0f}"
        line += f"{arrival.get('median', 0):>8.0f}{arrival.get('p95', 0):>8.0f}      "
        for kind in kinds:
            line += f"{max((v for k, v in peaks.items() if k.startswith(kind)), default=0):>9.0f}"
        lines.append(line + f"{step.memory['postgres_session_own_mib']:>9.0f}")
    return "\n".join(lines)


def document(rows: int, steps: list[Step], versions: dict[str, str]) -> dict[str, Any]:
    """Return all of it as JSON keeps it."""
    memory = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    return {
        "date": time.strftime("%F", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "memory_mib": memory, "system": platform.release()},
        "versions": {"python": platform.python_version(), **versions},
        "settings": {"postgres": "fsync=off, shared_buffers=64MB", "delivery": os.cpu_count()},
        "rows": rows,
        "steps": [
            {
                "name": step.name,
                "queued": step.queued,
                "rows": step.rows,
                "seconds": round(step.seconds, 2),
                "load": step.load,
                "stream": step.stream,
                "memory": step.memory,
                "notes": step.notes,
            }
            for step in steps
        ],
    }


def main() -> None:
    """Start all, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="an empty directory; logs stay in it")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    postgres = service("postgres_server", PostgresServer)
    rabbitmq = service("rabbitmq", RabbitMq)
    redis = service("redis_server", RedisServer)
    clickhouse = service("clickhouse_server", ClickhouseServer)
    urls = {
        "DATABASE_URL": postgres.database(),
        "BROKER_URL": rabbitmq.virtual_host(),
        "REDIS_URL": redis.database(),
        "CLICKHOUSE_URL": clickhouse.database(),
    }
    with contextlib.ExitStack() as stack:
        for one in (postgres, rabbitmq, redis, clickhouse):
            stack.callback(one.kill)
        where = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = stack.enter_context(starting(where / "var", urls, world="wide"))
        bench = Bench(running, postgres.signal(0), given.rows)
        stack.callback(bench.close)
        try:
            bench.run()
        finally:
            # What was measured is told, also if it is broken off.
            bench.look_at_stream()
            print(table(bench.steps))
            versions = {one.name: one.version for one in (postgres, rabbitmq, redis, clickhouse)}
            found = document(given.rows, bench.steps, versions)
            given.result.parent.mkdir(parents=True, exist_ok=True)
            given.result.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Break one safeguard of the product at a time, and see that the kill suite notices.

Gives    `python -m tests.soak.mutations [NAME …]`: a line for each, exit code 0 if all were
         noticed; MUTATIONS, the list
Takes    the working tree, which is copied and never changed; the services of the kill suite

Each mutation is a few words of the source that are replaced. The check that must fail is a run of
the kill suite with the faults that meet the safeguard; or a test, named here, where a run would
have to last longer than anybody waits (a lease runs out after a minute, a node is given up after a
quarter of an hour).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LEAVE_OUT = shutil.ignore_patterns(
    ".git", ".venv", "var", "__pycache__", ".*_cache", "node_modules"
)
TIMEOUT_S = 900
NOTICED = 1


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` stands once in `path` and becomes `new`. `check`: faults for the kill suite, or a
    test."""

    name: str
    path: str
    old: str
    new: str
    check: str
    count: int = 12

    @property
    def is_soak(self) -> bool:
        """Whether the kill suite is what must notice."""
        return not self.check.startswith("tests/")

    def command(self) -> list[str]:
        """Return the check."""
        if self.is_soak:
            run = ["-m", "tests.soak", "--seed", "1", "--minutes", "2", "--count", str(self.count)]
            return [sys.executable, *run, "--faults", self.check]
        return [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", self.check]


MUTATIONS = (
    Mutation(
        "no dot record",
        "workers/engines/deliver.py",
        "ports.journal.dot(job.row.id, job.row.claim_no)",
        "pass",
        "kill.delivery*",
    ),
    Mutation(
        "no outcome record",
        "platform/mailio/journal.py",
        "self._append(record(OUTCOME, encode_outcome(outcome)))",
        "pass",
        "postgres.kill_senders",
        count=6,
    ),
    Mutation(
        "the journal forgets before the commit",
        "workers/engines/settle.py",
        "        await self._commit(settlement)\n",
        "        self._ports.journal.forget([(o.row_id, o.claim_no) for o, _ in batch.outcomes])\n"
        "        await self._commit(settlement)\n",
        "postgres.kill_senders",
        count=6,
    ),
    Mutation(
        "accepted before it is committed",
        "platform/mailio/intake.py",
        "        fates = self._acceptor.accept(AcceptBatch(messages, events)).messages\n",
        "        batch = AcceptBatch(messages, events)\n"
        "        __import__('threading').Timer(0.3, self._acceptor.accept, [batch]).start()\n"
        "        fate = type('Fate', (), {'status': AcceptStatus.ACCEPTED, 'answer': ''})\n"
        "        fates = [fate for _ in messages]\n",
        "kill.web",
        count=10,
    ),
    Mutation(
        "the outbox is forgotten",
        "platform/mailio/ledger/delivery_sql.py",
        "SELECT $10::int, $11::bytea WHERE $10::int > 0",
        "SELECT $10::int, $11::bytea WHERE $10::int < 0",
        "kill.event",
        count=2,
    ),
)


def mutate(tree: Path, mutation: Mutation) -> None:
    """Break the safeguard in a tree. ValueError where its words do not stand once."""
    path = tree / mutation.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: its words stand {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def try_one(mutation: Mutation, log: Path) -> bool:
    """Return whether the check notices that the safeguard is broken."""
    with tempfile.TemporaryDirectory() as where:
        tree = Path(where) / "tree"
        shutil.copytree(TOP, tree, ignore=LEAVE_OUT)
        (tree / "var").mkdir(exist_ok=True)
        mutate(tree, mutation)
        with log.open("w") as file:
            done = subprocess.run(
                mutation.command(),
                cwd=tree,
                env={"PYTHONPATH": ".:platform", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
    return done.returncode == NOTICED


def main() -> int:
    """Try all, or those named."""
    names = set(sys.argv[1:])
    wanted = [one for one in MUTATIONS if not names or one.name in names]
    logs = TOP / "var" / "test"
    logs.mkdir(parents=True, exist_ok=True)
    missed = []
    for mutation in wanted:
        log = logs / f"mutation-{mutation.name.replace(' ', '-')}.log"
        is_noticed = try_one(mutation, log)
        print(f"{'noticed' if is_noticed else 'MISSED '}  {mutation.name}  ({log})", flush=True)
        missed += [] if is_noticed else [mutation.name]
    print(f"mutations: {len(wanted)} safeguards broken, {len(wanted) - len(missed)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

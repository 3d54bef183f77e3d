"""`python -m tests.soak`: the kill suite, as long as one likes. See docs/reliability.md."""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import threading
from pathlib import Path

from control.management.fleet.house import FleetError
from embedded.errors import EmbeddedError
from tests.soak.ground import BROKERS, Ground
from tests.soak.run import Plan, Soak, SoakError
from tests.support.services import MissingService


def main() -> int:
    """Run; 0 if every message is accounted for and every copy explained, 1 if not, 2 if it could
    not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=1_000_000, help="end after so many faults")
    parser.add_argument(
        "--seed", type=int, default=None, help="the same seed draws the same faults"
    )
    parser.add_argument("--faults", default="", help="names and patterns, as kill.*,disk.full")
    parser.add_argument("--broker", choices=BROKERS, default=BROKERS[0])
    parser.add_argument("--per-s", type=float, default=30.0, help="messages offered a second")
    parser.add_argument("--keep", type=Path, default=None, help="leave logs and data here")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    signal.signal(signal.SIGINT, lambda *_: asked.set())
    plan = Plan(seed, given.faults, given.minutes, given.count, per_s=given.per_s)
    print(f"soak: seed {seed}", flush=True)
    try:
        with contextlib.ExitStack() as stack:
            where = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ground = stack.enter_context(Ground(where / "soak", broker=given.broker))
            soak = Soak(ground, plan, say=lambda line: print(line, flush=True))
            stack.callback(soak.close)
            account = soak.run(asked)
            print("the API answered", ", ".join(f"{what} {n}" for what, n in soak.statuses))
    except (MissingService, EmbeddedError, FleetError, ValueError) as exc:
        print(f"soak: {exc}", file=sys.stderr)
        return 2
    except SoakError as exc:
        print(f"soak: FAILED: {exc}", file=sys.stderr)
        return 1
    print(account.reckoning.table())
    for copy in account.copies:
        print(f"copy: {copy}")
    for fault in account.faults:
        print(f"soak: FAILED: {fault}")
    print(account.line)
    return 1 if account.faults else 0


if __name__ == "__main__":
    sys.exit(main())

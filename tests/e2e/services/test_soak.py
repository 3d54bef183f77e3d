"""The short form of the kill suite: faults of every group under load, on either broker, and every
message accounted for. `make soak` is the long one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from embedded.errors import StartError
from tests.soak.ground import BROKERS, Ground
from tests.soak.run import Plan, Soak
from tests.support.services import MissingService

# One of each group: what is killed, cut off, emptied, away, full, and a receiver that is to blame.
FAULTS = (
    "kill.delivery1,kill.all,stop.web,cut.postgres.silent,redis.flush,"
    "postgres.kill,postgres.terminate,clickhouse.kill,disk.full,receiver.loses"
)
SEED = 20


@pytest.mark.kill
@pytest.mark.parametrize("broker", BROKERS)
def test_nothing_is_lost_and_each_copy_has_a_fault_that_made_it(
    broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    faults = FAULTS + (",rabbitmq.purge" if broker == "rabbitmq" else "")
    plan = Plan(seed=SEED, faults=faults, count=len(faults.split(",")), pace=0.4)
    try:
        with Ground(tmp_path / "soak", broker=broker) as ground:
            soak = Soak(ground, plan, say=said.append)
            try:
                account = soak.run(threading.Event())
            finally:
                soak.close()
    except MissingService as exc:
        pytest.skip(str(exc))
    except StartError as exc:
        pytest.fail(f"{exc}; {said}")
    assert account.faults == [], "\n".join(said)
    assert account.struck == plan.count
    assert account.reckoning.total.accepted > 0
    with capsys.disabled():
        print(f"\n[{broker}: {account.line}]")

"""A backup is put back under the running fleet: what was delivered since is not sent again, it is
shown, and ends by what the statistics know; new mail flows."""

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import psycopg2
import pytest

from control.management.fleet.house import TOP
from tests.e2e.test_purge_and_undo import ask
from tests.io.ledger.backup import Backup
from tests.support import holds
from tests.support.fleet import Running, eventually

COUNT = 20
ASIDE = "SELECT count(*) FROM ledger_row WHERE state = 2 AND reason = 'restored'"
RELEASED = "UPDATE queue_hold SET released_at = now(), released_by = 'the backup'"


def restored(running: Running, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", "restored", *arguments],
        cwd=TOP,
        env=running.fleet.environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def beats(running: Running) -> Counter[str]:
    """Return how many heartbeats each node has counted."""
    return Counter(dict(running.query("SELECT name, beats FROM ledger_witness")))


def reconnected(running: Running) -> None:
    """Wait until the panel's process and this one have a line again."""
    with suppress(psycopg2.Error):
        running.query("SELECT 1")
    eventually(lambda: running.api.call("GET", "/holds").status == 200)


@pytest.mark.kill
def test_a_backup_put_back_under_the_fleet_sends_nothing_twice(running: Running) -> None:
    campaign, mark = f"restore-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex[:8]

    def send(numbers: Sequence[int]) -> list[str]:
        return [
            str(
                running.api.accept(
                    {
                        "from": "news@sender.test",
                        "to": [f"r{number}.{mark}@accepta.test"],
                        "text": "x",
                        "campaign": campaign,
                    }
                )["message_id"]
            )
            for number in numbers
        ]

    def arrived() -> list[int]:
        facts = running.lab.facts(recipient_prefix="r")
        return sorted(Counter(f["recipient"] for f in facts if mark in f["recipient"]).values())

    send([0])
    eventually(lambda: arrived() == [1])
    with holds.obeyed(running):
        hold = ask(running, "/holds", scope="campaign", target=campaign, reason="a backup")
    messages = send(range(1, COUNT + 1))
    backup = Backup(running.settings.database_url)
    # In the backup nothing is held: but for the quarantine all of it would go out again.
    backup.take(RELEASED)
    reconnected(running)
    with holds.obeyed(running):
        ask(running, f"/holds/{hold['id']}/release")
    eventually(lambda: arrived() == [1] * (1 + COUNT))
    running.wait_applied()
    # What is younger than a heartbeat has no witness.
    before = beats(running)
    eventually(lambda: all(count > before[name] for name, count in beats(running).items()))

    backup.restore()
    reconnected(running)
    eventually(lambda: backup.query(ASIDE)[0][0] >= COUNT, within_s=90)
    eventually(lambda: f"quarantined: {COUNT:,} rec" in restored(running, "show"))
    (fresh,) = send([COUNT + 1])
    eventually(lambda: running.api.recipient(fresh)["state"] == "delivered", within_s=90)
    said = restored(running, "reconcile")
    assert f"{COUNT} delivered" in said
    assert backup.query(ASIDE) == [(0,)]
    assert running.queued(campaign) == 0
    assert {running.api.recipient(each)["state"] for each in messages} == {"delivered"}
    running.wait_applied()
    assert arrived() == [1] * (2 + COUNT)
    assert running.statistics.final_counts(campaign=campaign) == {"delivered": COUNT + 2}

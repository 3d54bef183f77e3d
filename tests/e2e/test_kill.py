"""Kill both delivery workers while a campaign is under way: nothing is lost, what may have been
given twice was on the wire, and sending goes on by itself."""

import os
import signal

import pytest

from lab.report import summary
from tests.support.fleet import Load, Running, eventually

MESSAGES = 2000
STALLED = 5
UNKNOWN, LEASED = 2, 1
ROWS = """
SELECT r.recipient, r.message_id::text, r.state, r.reason
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id JOIN campaign c ON c.id = l.campaign_id
 WHERE c.label = %s
"""


def kill_delivery(running: Running) -> dict[str, int]:
    """Kill every delivery worker at once; return who they were."""
    pids = {n: pid for n, pid in running.fleet.pids().items() if n.startswith("delivery")}
    assert pids
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    return pids


def send_and_kill(running: Running, arrived_before: int) -> tuple[Load, dict[str, int]]:
    """Send the campaign; kill when a tenth has arrived and some messages wait for their reply."""
    killed: dict[str, int] = {}
    sent = Load("", "")

    def is_under_way() -> bool:
        total = running.lab.counts()["total"]
        return bool(total["accepted_unique"] - arrived_before > MESSAGES / 10)

    for sent in running.load(MESSAGES):  # noqa: B007 (the last state is returned)
        if not killed and is_under_way():
            killed = kill_delivery(running)
    if not killed:
        eventually(is_under_way)
        killed = kill_delivery(running)
    return sent, killed


@pytest.mark.kill
def test_a_campaign_survives_the_death_of_all_delivery_workers(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = running.lab.counts()
    wire_before = summary(counts).on_the_wire
    # These are surely on the wire: the receiver has them and says nothing.
    stalls = [{"delay_s": None}] * STALLED
    running.lab.script({"dot": stalls}, provider="accepta")
    load, killed = send_and_kill(running, counts["total"]["accepted_unique"])
    assert load.accepted == MESSAGES
    assert running.queued(load.campaign) > 0  # it was killed half way

    def unknown() -> list[tuple[str, str]]:
        rows = running.query(ROWS, load.campaign)
        return [
            (recipient, message_id) for recipient, message_id, state, _ in rows if state == UNKNOWN
        ]

    # The same node's reaper settles the journals of the dead: exactly what had a final dot on
    # the wire is unknown, and says so to whoever asks.
    eventually(lambda: len(unknown()) > 0)
    found = unknown()
    _, message_id = found[0]
    state = running.api.recipient(message_id)
    if state["state"] == "unknown":  # else the rule's time is over, and it was sent again
        assert state["queue"]["state"] == "unknown"
        assert state["queue"]["reason"] == "unknown_outcome"
        assert state["queue"]["last_reply"]
    assert "unknown" in [event["kind"] for event in state["trace"]]

    # The supervisor starts new ones, and the rule sends again what stayed unknown: nobody helps.
    eventually(lambda: not set(killed.values()) & set(running.fleet.pids().values()))
    eventually(lambda: set(killed) <= set(running.fleet.pids()))
    eventually(
        lambda: running.queued(load.campaign) == 0,
        within_s=150,
        what=lambda: running.query(ROWS, load.campaign)[:5],
    )
    seen = running.seen(load)
    assert len(seen.accepted | seen.refused) == load.accepted  # unaccounted: 0
    on_the_wire = summary(running.lab.counts()).on_the_wire - wire_before
    assert on_the_wire >= STALLED
    assert seen.copies <= on_the_wire
    running.wait_applied()
    final = running.statistics.final_counts(campaign=load.campaign)
    assert final == {"delivered": len(seen.accepted), "bounced": len(seen.refused)}
    with capsys.disabled():
        print(f"\n[killed: {on_the_wire} on the wire, {len(found)} unknown, {seen.copies} copies]")


@pytest.mark.kill
def test_after_the_kill_a_message_goes_through_as_ever(running: Running) -> None:
    receipt = running.api.accept(
        {"from": "news@sender.test", "to": ["after.the.kill@accepta.test"], "text": "x"}
    )
    message_id = str(receipt["message_id"])
    eventually(lambda: running.api.recipient(message_id)["state"] == "delivered")
    running.wait_applied()
    assert running.one("SELECT count(*) FROM ledger_row WHERE state = %s", LEASED) == 0

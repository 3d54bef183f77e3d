"""Restart every process while mail flows in and out, as an upgrade does: nothing is lost, nothing
is doubled, and of nothing it is unknown what became of it."""

from concurrent.futures import ThreadPoolExecutor

from tests.support.fleet import Load, Running, eventually

WAVE = 100
# In the order of docs/reliability.md: first who reads, last who writes.
FIRST, LAST = ("upkeep", "event", "priority"), ("web",)
LEFT = """
SELECT r.recipient, r.state, r.reason
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id JOIN campaign c ON c.id = l.campaign_id
 WHERE c.label = %s LIMIT 5
"""


def restart_all(running: Running) -> dict[str, int]:
    """Restart one process after the other; return the pids there were."""
    before = running.fleet.pids()
    deliver = sorted(name for name in before if name.startswith("delivery"))
    for name in (*FIRST, *deliver, *LAST):
        running.fleet.stop_one(name)
        running.fleet.start_one(name)
    return {name: before[name] for name in (*FIRST, *deliver, *LAST)}


def test_a_rolling_restart_under_load_loses_nothing_and_doubles_nothing(running: Running) -> None:
    loads: list[Load] = []
    with ThreadPoolExecutor(1) as operator:
        restarting = operator.submit(restart_all, running)
        while not restarting.done() or not loads:
            *_, load = running.load(WAVE, batch_size=20)
            loads.append(load)
            # Some of it is still queued when the next comes: never nothing, and never much.
            eventually(lambda load=load: running.queued(load.campaign) < WAVE / 2)  # type: ignore[misc]
        before = restarting.result()
    after = running.fleet.pids()
    assert [name for name, pid in before.items() if after.get(name) == pid] == []
    assert len(loads) > 1  # mail came in at every step
    for load in loads:
        assert load.accepted == WAVE
        eventually(
            lambda load=load: running.queued(load.campaign) == 0,  # type: ignore[misc]
            what=lambda load=load: running.query(LEFT, load.campaign),  # type: ignore[misc]
        )
    running.wait_applied()
    for load in loads:
        seen = running.seen(load)
        assert seen.copies == 0
        assert len(seen.accepted) + len(seen.refused) == WAVE
        counts = running.statistics.counts(campaign=load.campaign)
        assert "unknown" not in counts
        assert counts["delivered"] == len(seen.accepted)
        assert counts.get("bounced", 0) == len(seen.refused)

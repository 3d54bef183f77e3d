"""A hold stops what it covers and nothing else, in the fleet that runs, and lets all of it go."""

import uuid
from collections.abc import Iterator

import pytest

from mailcore.holds import HoldScope
from mailio.holds import announce
from tests.support import holds
from tests.support.fleet import Running, eventually

HELD, FREE = "accepta.test", "refusa.test"
BATCHES, BATCH = 6, 50


@pytest.fixture(autouse=True)
def in_the_end_nothing_is_held(running: Running) -> Iterator[None]:
    yield
    running.query("UPDATE queue_hold SET released_at = now() WHERE released_at IS NULL")
    announce(running.settings.redis_url)


def offer(running: Running, domain: str, count: int, run: str) -> list[str]:
    """Send messages to one domain, one recipient each; return their ids."""
    documents = [
        {
            "from": "news@sender.test",
            "to": [f"{run}-{n}@{domain}"],
            "text": "x",
            "campaign": "holds",
            "headers": {"X-Lab-Id": f"{run}-{domain}-{n}"},
        }
        for n in range(count)
    ]
    answer = running.api.post({"messages": documents})
    assert answer.status == 202, answer.body
    return [str(result["message_id"]) for result in answer.json()["results"]]


def arrived(running: Running, run: str, domain: str) -> list[float]:
    """Return when the receivers took mail of a run for a domain, or refused it for good."""
    return [
        fact["at"]
        for fact in running.lab.facts(recipient_prefix=f"{run}-")
        if fact["recipient"].endswith(f"@{domain}") and fact["fate"] in ("accepted", "refused")
    ]


def rows(running: Running, run: str, where: str = "true") -> int:
    """Return how many rows of a run are queued."""
    asked = "SELECT count(*) FROM ledger_row WHERE starts_with(recipient, %s) AND "
    return int(running.one(asked + where, run))


def isp_of(running: Running, domain: str) -> int:
    return int(running.one("SELECT isp_id FROM ledger_route WHERE domain = %s", domain))


def test_a_hold_on_an_isp_stops_a_campaign_there_and_its_end_delivers_the_rest(
    running: Running,
) -> None:
    run = f"isp{uuid.uuid4().hex[:8]}"
    offer(running, HELD, 1, run + "first")
    eventually(lambda: len(arrived(running, run + "first", HELD)) == 1)
    sent = offer(running, HELD, BATCH, f"{run}-0")
    number = holds.place(running, HoldScope.ISP, target_id=isp_of(running, HELD))
    for batch in range(1, BATCHES):
        sent += offer(running, HELD, BATCH, f"{run}-{batch}")
    # What a process had before it knew goes back, or is on the wire and ends.
    eventually(lambda: rows(running, run, "state = 1") == 0)
    before = arrived(running, run, HELD)
    late = offer(running, HELD, BATCH, f"{run}-late")
    offer(running, FREE, BATCH, f"{run}-free")
    eventually(lambda: len(arrived(running, run, FREE)) == BATCH)
    assert arrived(running, run, HELD) == before
    assert len(before) <= BATCH
    assert running.api.recipient(late[0])["state"] == "queued"
    holds.end(running, number)
    total = len(sent) + len(late)
    eventually(lambda: len(arrived(running, run, HELD)) == total)
    eventually(lambda: rows(running, run) == 0)
    assert len(arrived(running, run, HELD)) == total  # none of them twice


def test_a_held_domain_is_parked_and_let_go_when_its_hold_ends_by_itself(
    running: Running,
) -> None:
    run = f"dom{uuid.uuid4().hex[:8]}"
    number = holds.place(running, HoldScope.DOMAIN, target=HELD)
    (first, *_) = offer(running, HELD, BATCH, f"{run}-held")
    offer(running, FREE, BATCH, f"{run}-free")
    eventually(lambda: rows(running, run, f"unrouted_domain = '{HELD}'") == BATCH)
    assert rows(running, run, "reason = 'held'") == BATCH
    assert running.api.recipient(first)["queue"]["reason"] == "held"
    eventually(lambda: len(arrived(running, run, FREE)) == BATCH)
    ends_at = holds.end(running, number, in_s=1.0)
    eventually(lambda: len(arrived(running, run, HELD)) == BATCH)
    assert min(arrived(running, run, HELD)) >= ends_at
    eventually(lambda: rows(running, run) == 0)

"""A hold stops what it covers and nothing else, in the fleet that runs, and lets all of it go."""

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from mailcore.holds import HoldScope
from mailio.holds import announce
from mailio.ledger.holds import PgHolds
from tests.support.fleet import Running, eventually

HELD, FREE = "accepta.test", "greylisto.test"
BATCHES, BATCH = 6, 50
LASTS_S = 10.0
# A process that lost the notice polls every two seconds.
KNOWN_S = 3.0


@pytest.fixture
def holds(running: Running) -> Iterator[PgHolds]:
    side = PgHolds(running.settings.database_url)
    yield side
    for record in side.page(only_in_force=True):
        side.release(record.hold.id, by="test")
    announce(running.settings.redis_url)
    side.close()


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
    """Return when the receivers began to take mail of a run for a domain."""
    return [
        fact["at"]
        for fact in running.lab.facts(recipient_prefix=f"{run}-")
        if fact["recipient"].endswith(f"@{domain}") and fact["fate"] == "accepted"
    ]


def wait_known() -> None:
    """Let every process hear of holds, those too that missed the notice."""
    time.sleep(KNOWN_S)  # noqa: TID251 - nothing tells from outside what a process knows


def queued(running: Running, run: str) -> int:
    return int(running.one("SELECT count(*) FROM ledger_row WHERE starts_with(recipient, %s)", run))


def isp_of(running: Running, domain: str) -> int:
    return int(running.one("SELECT isp_id FROM ledger_route WHERE domain = %s", domain))


def test_a_hold_on_an_isp_stops_a_campaign_there_and_its_release_delivers_the_rest(
    running: Running, holds: PgHolds
) -> None:
    run = f"isp{uuid.uuid4().hex[:8]}"
    offer(running, HELD, 1, run + "first")
    eventually(lambda: len(arrived(running, run + "first", HELD)) == 1)
    sent = offer(running, HELD, BATCH, f"{run}-0")
    number = holds.place(
        HoldScope.ISP, target_id=isp_of(running, HELD), reason="complaints", author="test"
    ).hold.id
    announce(running.settings.redis_url)
    for batch in range(1, BATCHES):
        sent += offer(running, HELD, BATCH, f"{run}-{batch}")
    wait_known()
    before = arrived(running, run, HELD)
    late = offer(running, HELD, BATCH, f"{run}-late")
    offer(running, FREE, BATCH, f"{run}-free")
    eventually(lambda: len(arrived(running, run, FREE)) == BATCH)
    assert arrived(running, run, HELD) == before
    assert len(before) < len(sent)
    assert running.api.recipient(late[0])["state"] == "queued"
    holds.release(number, by="test")
    announce(running.settings.redis_url)
    total = len(sent) + len(late)
    eventually(lambda: len(arrived(running, run, HELD)) == total)
    eventually(lambda: queued(running, run) == 0)
    assert len(arrived(running, run, HELD)) == total  # none of them twice


def test_a_held_domain_is_parked_and_let_go_when_its_hold_ends_by_itself(
    running: Running, holds: PgHolds
) -> None:
    run = f"dom{uuid.uuid4().hex[:8]}"
    ends_at = datetime.now(UTC) + timedelta(seconds=LASTS_S)
    holds.place(HoldScope.DOMAIN, target=HELD, reason="their wish", author="test", ends_at=ends_at)
    announce(running.settings.redis_url)
    wait_known()
    (first, *_) = offer(running, HELD, BATCH, f"{run}-held")
    offer(running, FREE, BATCH, f"{run}-free")
    parked = "SELECT count(*) FROM ledger_row WHERE reason = 'held' AND unrouted_domain = %s"
    eventually(lambda: running.one(parked, HELD) == BATCH)
    assert running.api.recipient(first)["queue"]["reason"] == "held"
    eventually(lambda: len(arrived(running, run, FREE)) == BATCH)
    eventually(lambda: len(arrived(running, run, HELD)) == BATCH)
    assert min(arrived(running, run, HELD)) >= ends_at.timestamp()
    eventually(lambda: queued(running, run) == 0)
    assert running.one(parked, HELD) == 0

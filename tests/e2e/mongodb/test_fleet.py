"""A whole fleet whose content lies in MongoDB: accepted, delivered, reported, swept."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pymongo
import pytest

from control.health import failed_stores
from tests.support.fleet import Running, eventually, starting
from tests.support.services import DocumentDb
from tests.support.services import documentdb as documentdb

CAMPAIGN = 300

pytestmark = pytest.mark.skipif(
    not os.environ.get("WITH_MONGODB"), reason="make test-mongodb runs it, on DocumentDB"
)


@pytest.fixture(scope="module")
def shared(
    documentdb: DocumentDb, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, str]]:
    """The fleet, and the database of its spool."""
    url = documentdb.database()
    with starting(tmp_path_factory.mktemp("shared"), {"SPOOL_URL": url}) as running:
        yield running, url


def test_a_campaign_goes_through_a_shared_spool(shared: tuple[Running, str]) -> None:
    running, url = shared
    *_, load = running.load(CAMPAIGN)
    assert load.accepted == CAMPAIGN
    with pymongo.MongoClient[dict[str, object]](url) as client:
        contents = client.get_default_database()["contents"]
        assert contents.count_documents({}) >= CAMPAIGN
    eventually(lambda: running.queued(load.campaign) == 0, within_s=120)
    running.wait_applied()
    seen = running.seen(load)
    assert len(seen.accepted) + len(seen.refused) <= CAMPAIGN
    assert seen.accepted
    assert seen.copies == 0
    assert running.one("SELECT count(*) FROM ledger_row WHERE reason = 'no_content'") == 0
    assert not (running.settings.var_dir / "spool").exists()


def test_it_is_ready_while_mongodb_is_and_mail_is_refused_while_it_is_not(
    shared: tuple[Running, str], documentdb: DocumentDb
) -> None:
    running, _ = shared
    offer = {"from": "news@sender.test", "to": ["ann@accepta.test"], "text": "x"}
    assert failed_stores(running.settings) == []
    documentdb.kill()
    try:
        assert failed_stores(running.settings) == ["spool"]
        answer = running.api.post(offer)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
    finally:
        documentdb.start()
    assert failed_stores(running.settings) == []
    eventually(lambda: running.api.post(offer).status == 202)


def test_upkeep_sweeps_it_and_marks_it(shared: tuple[Running, str]) -> None:
    running, url = shared
    node = running.settings.node
    running.ring("upkeep.sweep")
    running.ring("upkeep.measure")
    told = (
        "SELECT count(*) FROM spool_node WHERE node = %s AND measured_at IS NOT NULL"
        " AND swept_at IS NOT NULL AND segments > 0 AND doubt = ''"
    )
    eventually(lambda: running.one(told, node) == 1)
    assert running.one("SELECT sweeps FROM spool_home WHERE node = '(shared)'") >= 1
    with pymongo.MongoClient[dict[str, object]](url) as client:
        mark = client.get_default_database()["mark"].find_one({"_id": "mark"})
    assert mark is not None
    assert mark["installation"] == running.one("SELECT id::text FROM installation")

"""From a saved row to a worker, without restart."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.db import connection

from control.audit.changes import policy_change
from control.mta.models import Strategy
from control.policy.selectors import fleet_state
from control.policy.system_rows import create_system_rows
from mailio.settings import Settings
from mailio.snapshots import watch
from tests.control.conftest import SYSTEM
from workers.policy_cache import PolicyCache

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def published(transactional_db: None) -> Iterator[None]:
    """Revision 1, committed; Django empties its own tables afterwards, these are not its own."""
    create_system_rows(actor=SYSTEM)
    yield
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE policy_revision, policy_ack, vault_secret")


def test_a_saved_change_is_announced_and_in_force_in_a_worker_that_then_counts_as_synced(
    published: None, database_url: str, stores: Settings
) -> None:
    settings = replace(stores, database_url=database_url)
    announced = threading.Semaphore(0)
    watcher = watch(settings.redis_url, announced.release, poll_s=3600)
    assert announced.acquire(timeout=60)  # it listens
    worker = PolicyCache.start(settings, process="p")
    try:
        before = worker.revision
        with policy_change(SYSTEM) as change:
            strategy = Strategy.objects.get(name="60:60")
            change.touch(strategy)
            Strategy.objects.filter(pk=strategy.pk).update(connections=77)
        assert announced.acquire(timeout=60)
        assert worker.refresh()
        assert worker.revision == before + 1
        assert worker.current().strategies[strategy.pk].connections == 77
        state = fleet_state()
        assert state.active == worker.revision
        assert [(node.name, node.is_synced) for node in state.nodes] == [("node1", True)]
    finally:
        worker.stop()
        watcher.stop()
    assert [node.is_synced for node in fleet_state().nodes] == []


def test_a_change_that_is_rolled_back_is_not_announced(published: None, stores: Settings) -> None:
    announced = threading.Semaphore(0)
    watcher = watch(stores.redis_url, announced.release, poll_s=3600)
    assert announced.acquire(timeout=60)
    try:
        with pytest.raises(ZeroDivisionError):
            _change_and_fail()
        assert fleet_state().newest == 1
    finally:
        watcher.stop()
    assert not announced.acquire(blocking=False)


def _change_and_fail() -> None:
    with policy_change(SYSTEM) as change:
        strategy = Strategy.objects.get(name="60:60")
        change.touch(strategy)
        Strategy.objects.filter(pk=strategy.pk).update(connections=78)
        raise ZeroDivisionError

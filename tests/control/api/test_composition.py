"""A web process builds its door from the settings and follows the policy that is in force."""

import contextlib
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest
from django.test import override_settings

from control.accounts.models import Account
from control.audit.changes import policy_change
from control.policy.models import PolicyRevision
from control.submission import services
from control.submission.policy import PolicyReader
from mailcore.ports import StoreUnavailable
from mailcore.submission import parse_offer
from mailio.settings import Settings
from mailio.snapshots import SnapshotStore, StoredRevision
from tests.control.api.conftest import database_url_of_tests, message
from tests.control.conftest import SYSTEM, House


class Store(SnapshotStore):
    """A store of revisions that can be away."""

    def __init__(self, revision: StoredRevision | None) -> None:
        super().__init__("")
        self.revision = revision
        self.is_away = False
        self.asked = 0

    def active_number(self) -> tuple[int, str] | None:
        """Count the question, answer it."""
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("postgresql", "away")
        return None if self.revision is None else (self.revision.revision, self.revision.digest)

    def active(self) -> StoredRevision | None:
        """Return the revision."""
        return self.revision


def stored(house: House) -> StoredRevision:
    row = PolicyRevision.objects.get(is_active=True)
    return StoredRevision(row.revision, row.digest, row.schema_version, bytes(row.body))


@pytest.mark.django_db
def test_the_policy_is_asked_for_once_a_second_and_outlives_its_store(house: House) -> None:
    now = [100.0]
    store = Store(stored(house))
    reader = PolicyReader(store, monotonic=lambda: now[0])
    first = reader.current()
    assert first.accounts[house.account.pk].is_active
    assert reader.current() is first
    assert store.asked == 1
    with policy_change(SYSTEM) as change:
        change.touch(house.account)
        Account.objects.filter(pk=house.account.pk).update(is_active=False)
    store.revision = stored(house)
    assert reader.current() is first
    now[0] = 101.0
    second = reader.current()
    assert not second.accounts[house.account.pk].is_active
    store.is_away = True
    now[0] = 110.0
    assert reader.current() is second
    store.is_away = False
    store.revision = replace(store.revision, digest="another", body=b"damaged")
    now[0] = 120.0
    assert reader.current() is second


def test_without_any_policy_nothing_can_be_judged() -> None:
    store = Store(None)
    with pytest.raises(StoreUnavailable, match="no policy"):
        PolicyReader(store).current()
    store.is_away = True
    with pytest.raises(StoreUnavailable, match="away"):
        PolicyReader(store).current()
    broken = Store(StoredRevision(1, "digest", 1, b"damaged"))
    with pytest.raises(StoreUnavailable):
        PolicyReader(broken).current()


@pytest.mark.django_db(transaction=True)
def test_the_settings_make_a_door_that_takes_mail(
    house: House, stores: Settings, tmp_path: Path
) -> None:
    url = database_url_of_tests(stores)
    ours = replace(stores, database_url=url, spool_url=f"file://{tmp_path}/spool")
    services.close_door()  # of other settings: whoever asked whether we are ready has opened it
    with override_settings(POSTFLEET=ours), contextlib.ExitStack() as stack:
        stack.callback(services.close_door)
        offer = parse_offer(message(sender="bulk"))
        given = services.submit_one(offer, account_id=house.account.pk, key=None)
        assert '"accepted": true' in given.text
        opened = services.door()
        assert services.door() is opened
        with pytest.raises(StoreUnavailable):
            opened.statistics.trace(UUID(int=1))  # nobody listens there
    line = psycopg2.connect(url)
    with contextlib.closing(line), line, line.cursor() as cursor:
        cursor.execute("DELETE FROM ledger_outbox")
        cursor.execute("DELETE FROM ledger_row RETURNING recipient")
        assert cursor.fetchall() == [("a@x.test",)]


def test_a_process_without_stores_says_so() -> None:
    with override_settings(POSTFLEET=None), pytest.raises(StoreUnavailable, match="no stores"):
        services.door()

"""The API tokens that the panel issues are what clients log in with over SMTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.utils import timezone

from control.access import ApiScope
from control.accounts.models import Account, ApiToken
from control.accounts.services import issue_token
from control.policy.system_rows import create_system_rows
from mailcore.reception import Identity
from mailio.smtp_credentials import TokenDesk
from tests.control.conftest import SYSTEM

pytestmark = pytest.mark.django_db(transaction=True)
SEND = [ApiScope.MESSAGES_SEND.value]


@pytest.fixture
def account(transactional_db: None) -> Account:
    create_system_rows(actor=SYSTEM)
    return Account.objects.create(title="Acme", login_name="acme")


@pytest.fixture
def desk(database_url: str) -> Iterator[TokenDesk]:
    desk = TokenDesk(database_url)
    yield desk
    desk.close()


def test_a_token_logs_in_by_its_name_and_by_its_number(account: Account, desk: TokenDesk) -> None:
    token, clear = issue_token(name="Shop mail", account=account, scopes=SEND, actor=SYSTEM)
    identity = desk.identify("Shop mail", clear)
    assert identity == Identity(account.pk, token.token_hash)
    assert desk.identify(str(token.pk), clear) == identity
    assert desk.identify("shop", clear) is None
    assert desk.identify("Shop mail", clear + "x") is None
    assert desk.is_valid(identity)
    token.refresh_from_db()
    assert token.last_used_at is not None


def test_a_token_that_expired_is_off_or_lacks_the_scope_does_not(
    account: Account, desk: TokenDesk
) -> None:
    past = timezone.now() - timedelta(seconds=1)
    _, expired = issue_token(
        name="old", account=account, scopes=SEND, actor=SYSTEM, expires_at=past
    )
    off, off_clear = issue_token(name="off", account=account, scopes=SEND, actor=SYSTEM)
    ApiToken.objects.filter(pk=off.pk).update(is_active=False)
    _, metrics = issue_token(
        name="metrics", account=None, scopes=[ApiScope.METRICS.value], actor=SYSTEM
    )
    found = [
        desk.identify(name, clear)
        for name, clear in (("old", expired), ("off", off_clear), ("metrics", metrics))
    ]
    assert found == [None, None, None]


def test_a_token_that_is_deleted_holds_no_more_once_its_memory_is_over(
    account: Account, database_url: str
) -> None:
    now = [0.0]
    desk = TokenDesk(database_url, monotonic=lambda: now[0])
    try:
        token, clear = issue_token(name="brief", account=account, scopes=SEND, actor=SYSTEM)
        identity = desk.identify("brief", clear)
        assert identity is not None
        token.delete()
        assert desk.is_valid(identity)
        now[0] = 5.0
        assert not desk.is_valid(identity)
    finally:
        desk.close()

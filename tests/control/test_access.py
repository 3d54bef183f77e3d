"""Who may see and do what."""

import pytest
from django.contrib import admin
from django.db import models
from django.test import Client

from control import access
from control.access import Actor, ApiScope, Verb, can, scope
from control.accounts.models import Account, ApiToken, User
from control.admin_base import PolicyAdmin
from control.domains.models import SendingDomain
from control.mta.models import Strategy
from control.panel import PanelAdmin, ReadOnlyAdmin
from control.senders.models import Sender
from tests.control.conftest import House
from tests.control.pages import page, send

PAGES = sorted(admin.site._registry.items(), key=lambda item: item[0]._meta.label)
ROLES = ("master", "ordinary", "account_user", "anonymous")
pytestmark = pytest.mark.django_db


def test_every_page_registers_through_our_bases() -> None:
    strangers = [
        model._meta.label
        for model, one in PAGES
        if not isinstance(one, PolicyAdmin | ReadOnlyAdmin)
    ]
    assert PAGES
    assert strangers == []


def test_every_page_shows_a_model_that_says_who_may_see_it() -> None:
    assert [m._meta.label for m, _one in PAGES if access.rule_of(m) is access.DENIED] == []


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("model", "shown"), PAGES, ids=[m._meta.label for m, _ in PAGES])
def test_each_role_reaches_exactly_the_pages_its_rule_allows(
    model: type[models.Model], shown: PanelAdmin, role: str, request: pytest.FixtureRequest
) -> None:
    client = Client(headers={"host": "localhost"})
    may: frozenset[Verb] = frozenset()
    if role != "anonymous":
        user = request.getfixturevalue(role)
        client.force_login(user)
        rule = access.rule_of(model)
        may = {"master": rule.master, "ordinary": rule.admin}.get(role, frozenset())
    writes = frozenset() if isinstance(shown, ReadOnlyAdmin) else may
    expected = {"": Verb.VIEW in may, "add/": Verb.ADD in writes}
    for what, is_allowed in expected.items():
        status = client.get(page(model, what)).status_code
        refused = 403 if role in ("master", "ordinary") else 302
        assert status == (200 if is_allowed else refused), f"{role} {page(model, what)}"


@pytest.mark.parametrize("role", ROLES)
def test_each_role_opens_and_deletes_exactly_the_rows_its_rule_allows(
    role: str, house: House, request: pytest.FixtureRequest
) -> None:
    client = Client(headers={"host": "localhost"})
    user = None if role == "anonymous" else request.getfixturevalue(role)
    if user is not None:
        client.force_login(user)
    refused = 403 if role in ("master", "ordinary") else 302
    seen = 0
    for model, shown in PAGES:
        row = model._default_manager.order_by("-pk").first()
        if row is None:
            continue
        seen += 1
        actor = access.NOBODY if user is None else Actor.of_user(user)
        is_admin = actor.is_admin
        may_view = is_admin and can(actor, Verb.VIEW, row)
        may_delete = is_admin and can(actor, Verb.DELETE, row)
        may_delete &= not isinstance(shown, ReadOnlyAdmin) and not getattr(row, "is_system", False)
        may_delete &= row != user
        for what, is_allowed in (("change/", may_view), ("delete/", may_delete)):
            path = page(model, f"{row.pk}/{what}")
            assert client.get(path).status_code == (200 if is_allowed else refused), path
    assert seen >= 12


def test_account_users_see_rows_of_their_account_alone(house: House, account_user: User) -> None:
    actor = Actor.of_user(account_user)
    hers = Sender.objects.create(name="another", pool=house.pool)
    hers.accounts.add(house.other)
    assert list(scope(actor, Sender.objects.all())) == [house.sender]
    assert list(scope(actor, Account.objects.all())) == [house.account]
    assert list(scope(actor, SendingDomain.objects.all())) == [house.domain]
    assert list(scope(actor, Strategy.objects.all())) == []
    assert can(actor, Verb.VIEW, house.sender)
    assert not can(actor, Verb.VIEW, hers)
    assert not can(actor, Verb.CHANGE, house.sender)


def test_a_row_that_belongs_to_two_accounts_is_seen_once(house: House, account_user: User) -> None:
    house.sender.accounts.add(house.other)
    assert list(scope(Actor.of_user(account_user), Sender.objects.all())) == [house.sender]


def test_inactive_people_and_unknown_models_are_refused(master: User) -> None:
    master.is_active = False
    actor = Actor.of_user(master)
    assert not can(actor, Verb.VIEW, Account)
    assert list(scope(actor, User.objects.all())) == []
    assert not can(Actor.system("test"), Verb.VIEW, admin.models.LogEntry)


def test_a_token_is_what_its_account_and_scopes_make_it(house: House) -> None:
    ours = ApiToken(name="a", account=house.account, scopes=[ApiScope.MESSAGES_SEND])
    whole = ApiToken(name="b", account=None, scopes=[ApiScope.ADMIN])
    powerless = ApiToken(name="c", account=None, scopes=[])
    assert Actor.of_token(ours).has_scope("messages:send")
    assert not Actor.of_token(ours).has_scope("messages:read")
    assert not Actor.of_token(ours).is_admin
    assert can(Actor.of_token(whole), Verb.CHANGE, Strategy)
    assert not can(Actor.of_token(powerless), Verb.VIEW, Account)


def test_ordinary_administrators_manage_account_users_and_not_administrators(
    house: House, ordinary: User, master: User, account_user: User
) -> None:
    client = Client(headers={"host": "localhost"})
    client.force_login(ordinary)
    changed = send(client, page(User, f"{account_user.pk}/change/"), first_name="Ann")
    assert changed.status_code == 302
    assert client.get(page(User, f"{master.pk}/delete/")).status_code == 403
    form = client.get(page(User, f"{master.pk}/change/"))
    assert b'name="username"' not in form.content  # shown, not editable


def test_ordinary_administrators_cannot_make_an_administrator(
    house: House, ordinary: User, account_user: User
) -> None:
    client = Client(headers={"host": "localhost"})
    client.force_login(ordinary)
    made = send(
        client, page(User, "add/"), username="mallory", new_password="correct horse battery"
    )
    assert made.status_code == 200
    assert not User.objects.filter(username="mallory").exists()
    raised = send(client, page(User, f"{account_user.pk}/change/"), account="", username="mallory")
    assert raised.status_code == 200
    account_user.refresh_from_db()
    assert account_user.account_id == house.account.pk


def test_nobody_deletes_themselves(panel: Client, master: User) -> None:
    assert panel.post(page(User, f"{master.pk}/delete/"), {"post": "yes"}).status_code == 403
    bulk = {"action": "delete_selected", "_selected_action": [str(master.pk)], "post": "yes"}
    panel.post(page(User), bulk)
    assert User.objects.filter(pk=master.pk).exists()

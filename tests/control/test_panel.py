"""Pages that change rows: audited, versioned, compiled, or refused with the reason."""

from typing import Any

import pytest
from django.contrib import admin
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext

from control.accounts.models import Account, ApiToken, User
from control.accounts.services import authenticate_token
from control.audit.choices import Action
from control.audit.models import AuditEntry
from control.mta.models import BouncePattern, Isp, IspDomain, Pool, PoolMember, RetryRule, Strategy
from control.nodes.models import Source
from control.policy.models import PolicyRevision
from control.senders.models import Sender
from control.stoplists.models import StopEntry
from tests.control.conftest import PASSWORD, House
from tests.control.pages import errors, form_of, page, send

pytestmark = pytest.mark.django_db
LISTS = sorted(admin.site._registry, key=lambda model: model._meta.label)
# Session, user, two for the fleet's state, count, rows, filters; none grows with the rows.
MOST_QUERIES = 12


def active() -> int:
    return PolicyRevision.objects.get(is_active=True).revision


def test_a_saved_change_is_audited_with_before_and_after_and_published(
    house: House, panel: Client, master: User
) -> None:
    before = active()
    answer = send(panel, page(Strategy, f"{house.strategy.pk}/change/"), connections="7")
    assert answer.status_code == 302
    house.strategy.refresh_from_db()
    assert (house.strategy.connections, house.strategy.version) == (7, 2)
    assert house.strategy.updated_by == master
    entry = AuditEntry.objects.order_by("-id")[0]
    assert (entry.actor, entry.action, entry.user) == ("master", Action.CHANGED, master)
    assert entry.before is not None
    assert entry.after is not None
    assert (entry.before["connections"], entry.after["connections"]) == (1, 7)
    assert entry.revision == active() == before + 1


def test_a_form_saved_unchanged_changes_nothing(house: House, panel: Client) -> None:
    before = (active(), AuditEntry.objects.count())
    answer = send(panel, page(Strategy, f"{house.strategy.pk}/change/"))
    assert answer.status_code == 302
    house.strategy.refresh_from_db()
    assert house.strategy.version == 1
    assert (active(), AuditEntry.objects.count()) == before


def test_the_second_of_two_who_edit_the_same_version_is_told_by_whom(
    house: House, panel: Client, ordinary: User
) -> None:
    path = page(Strategy, f"{house.strategy.pk}/change/")
    stale = form_of(panel, path)
    colleague = Client(headers={"host": "localhost"})
    colleague.force_login(ordinary)
    assert send(colleague, path, connections="5").status_code == 302
    answer = panel.post(path, {**stale, "connections": "9"})
    assert "changed meanwhile by ordinary" in errors(answer)
    house.strategy.refresh_from_db()
    assert house.strategy.connections == 5


def test_a_change_that_makes_no_policy_is_refused_with_row_field_and_reason(
    house: House, panel: Client
) -> None:
    before = (active(), AuditEntry.objects.count())
    answer = send(panel, page(Source, f"{house.source.pk}/change/"), is_active="")
    said = errors(answer)
    assert f"sender {house.sender.pk}" in said
    assert "pool" in said
    assert "no active source" in said
    assert "was changed successfully" not in answer.content.decode()
    house.source.refresh_from_db()
    assert house.source.is_active
    assert (active(), AuditEntry.objects.count()) == before


def test_the_reason_stands_at_its_field_when_the_row_itself_is_refused(
    house: House, panel: Client
) -> None:
    answer = send(panel, page(Sender, f"{house.sender.pk}/change/"), pool="")
    assert list(answer.context["adminform"].form.errors) == ["pool"]
    assert "no pool" in errors(answer)


def test_inline_rows_are_compiled_with_their_parent_and_raise_its_version(
    house: House, panel: Client
) -> None:
    second = Source.objects.create(
        node=house.source.node, address="192.0.2.2", ehlo_name="b.example.com"
    )
    member = PoolMember.objects.get(pool=house.pool)
    answer = send(
        panel,
        page(Pool, f"{house.pool.pk}/change/"),
        **{
            "members-TOTAL_FORMS": "2",
            "members-0-source": str(house.source.pk),
            "members-0-weight": "30",
            "members-1-source": str(second.pk),
            "members-1-weight": "70",
            "members-1-pool": str(house.pool.pk),
        },
    )
    assert answer.status_code == 302
    house.pool.refresh_from_db()
    member.refresh_from_db()
    assert house.pool.version == 2
    assert member.weight == 30
    assert set(house.pool.members.values_list("source_id", "weight")) == {
        (house.source.pk, 30),
        (second.pk, 70),
    }


def test_removing_the_last_inline_source_is_refused(house: House, panel: Client) -> None:
    answer = send(panel, page(Pool, f"{house.pool.pk}/change/"), **{"members-0-DELETE": "on"})
    assert "no active source" in errors(answer)
    assert house.pool.members.count() == 1


def test_assigning_an_account_is_audited_though_it_is_no_column(
    house: House, panel: Client
) -> None:
    both = [str(house.account.pk), str(house.other.pk)]
    assert send(panel, page(Sender, f"{house.sender.pk}/change/"), accounts=both).status_code == 302
    entry = AuditEntry.objects.order_by("-id")[0]
    assert entry.before is not None
    assert entry.after is not None
    assert entry.before["accounts"] == [house.account.pk]
    assert entry.after["accounts"] == sorted([house.account.pk, house.other.pk])


def test_system_records_are_edited_and_not_deleted(house: House, panel: Client) -> None:
    path = page(Strategy, f"{house.strategy.pk}/delete/")
    assert panel.post(path, {"post": "yes"}).status_code == 403
    extra = Strategy.objects.create(name="extra")
    ids = [str(house.strategy.pk), str(extra.pk)]
    bulk = {"action": "delete_selected", "_selected_action": ids, "post": "yes"}
    panel.post(page(Strategy), bulk)
    assert Strategy.objects.filter(pk__in=ids).count() == 2


def test_a_row_and_what_goes_with_it_are_deleted_and_audited(house: House, panel: Client) -> None:
    isp = Isp.objects.create(name="Example")
    IspDomain.objects.create(isp=isp, domain="mail.example.com")
    answer = panel.post(page(Isp, f"{isp.pk}/delete/"), {"post": "yes"})
    assert answer.status_code == 302
    gone = AuditEntry.objects.filter(action=Action.DELETED).values_list("object_type", flat=True)
    assert sorted(gone) == ["mta.isp", "mta.ispdomain"]


def test_a_sender_an_account_falls_back_on_is_not_deleted(house: House, panel: Client) -> None:
    house.account.default_sender = house.sender
    house.account.save()
    answer = panel.post(page(Sender, f"{house.sender.pk}/delete/"), {"post": "yes"})
    assert "Acme" in answer.content.decode()
    house.sender.refresh_from_db()
    assert not house.sender.is_deleted


def test_a_bulk_action_that_makes_no_policy_says_why_and_changes_nothing(
    house: House, panel: Client
) -> None:
    Sender.objects.filter(pk=house.sender.pk).update(is_deleted=True)
    Source.objects.filter(pk=house.source.pk).update(is_active=False)
    bulk = {"action": "restore", "_selected_action": [str(house.sender.pk)]}
    answer = panel.post(page(Sender), bulk, follow=True)
    assert "no active source" in answer.content.decode()
    house.sender.refresh_from_db()
    assert house.sender.is_deleted


def test_a_deleted_sender_is_kept_and_can_be_restored(house: House, panel: Client) -> None:
    assert (
        panel.post(page(Sender, f"{house.sender.pk}/delete/"), {"post": "yes"}).status_code == 302
    )
    house.sender.refresh_from_db()
    assert house.sender.is_deleted
    bulk = {"action": "restore", "_selected_action": [str(house.sender.pk)]}
    assert panel.post(page(Sender), bulk).status_code == 302
    house.sender.refresh_from_db()
    assert not house.sender.is_deleted


@pytest.mark.parametrize(
    ("model", "fields", "complaint"),
    [
        (BouncePattern, {"name": "x", "type": "hard", "pattern": "(", "position": "1"}, "pattern"),
        (BouncePattern, {"name": "x", "type": "hard", "pattern": "a*", "position": "1"}, "every"),
        (Strategy, {"name": "60:60"}, "already exists"),
        (Strategy, {"name": "x", "interval_s": "0"}, "greater than or equal to 0.1"),
        (RetryRule, {"name": "x", "interval_s": "-5"}, "greater than or equal to 0"),
        (Account, {"title": "x", "login_name": "Not A Slug"}, "lower-case"),
        (Isp, {"name": "x", "mx_suffixes": "-bad-"}, "malformed label"),
        (Source, {"address": "300.1.1.1", "ehlo_name": "a.test"}, "IPv4 or IPv6"),
        (Source, {"address": "192.0.2.9", "ehlo_name": "no dot"}, "ehlo_name"),
        (StopEntry, {"recipient": "nobody"}, "has no @"),
        (ApiToken, {"name": "x", "scopes": ["messages:send"]}, "name it"),
    ],
)
def test_bad_input_is_refused_with_the_field_and_the_reason(
    model: type[models.Model],
    fields: dict[str, Any],
    complaint: str,
    house: House,
    panel: Client,
) -> None:
    before = model._default_manager.count()
    assert complaint in errors(send(panel, page(model, "add/"), **fields))
    assert model._default_manager.count() == before


def test_a_domain_cannot_be_in_two_isps(house: House, panel: Client) -> None:
    first = Isp.objects.create(name="First")
    IspDomain.objects.create(isp=first, domain="mail.test")
    second = Isp.objects.create(name="Second")
    answer = send(
        panel,
        page(Isp, f"{second.pk}/change/"),
        **{
            "domains-TOTAL_FORMS": "1",
            "domains-0-domain": "MAIL.test.",
            "domains-0-isp": str(second.pk),
        },
    )
    assert "belongs to another ISP" in errors(answer)


def test_durations_are_asked_in_the_reference_s_units_and_kept_in_seconds(
    house: House, panel: Client
) -> None:
    answer = send(panel, page(RetryRule, "add/"), name="half hour", interval_s="30")
    assert answer.status_code == 302
    rule = RetryRule.objects.get(name="half hour")
    assert rule.interval_s == 1800.0
    assert form_of(panel, page(RetryRule, f"{rule.pk}/change/"))["interval_s"] == ["30.0"]


def test_a_new_token_is_shown_once_works_and_is_nowhere_stored(house: House, panel: Client) -> None:
    path = page(ApiToken, "add/")
    fields = {"account": str(house.account.pk), "scopes": ["messages:send"]}
    answer = panel.post(path, {**form_of(panel, path), "name": "shop", **fields}, follow=True)
    clear = next(
        word.split("<")[0] for word in answer.content.decode().split() if word.startswith("pf_")
    )
    token = authenticate_token(clear)
    assert token is not None
    assert token.name == "shop"
    assert clear not in panel.get(page(ApiToken, f"{token.pk}/change/")).content.decode()
    assert clear not in panel.get(page(ApiToken)).content.decode()
    token.is_active = False
    token.save()
    assert authenticate_token(clear) is None


def test_the_strategy_page_shows_its_speed(house: House, panel: Client) -> None:
    text = panel.get(page(Strategy, f"{house.strategy.pk}/change/")).content.decode()
    assert "86,400" in text
    assert "3,600" in text
    assert "<td>60</td>" in text


def test_every_page_shows_mode_revision_and_nodes(house: House, panel: Client) -> None:
    for path in ("/panel/", page(Strategy), page(Strategy, "add/")):
        text = panel.get(path).content.decode()
        assert "LAB" in text
        assert f"Policy revision {active()}" in text
        assert "node1: does not report" in text


@pytest.mark.parametrize("model", LISTS, ids=[model._meta.label for model in LISTS])
def test_a_list_costs_the_same_queries_for_one_row_and_for_many(
    model: type[models.Model], house: House, panel: Client
) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as counted:
            assert panel.get(page(model)).status_code == 200
        return len(counted)

    first = cost()
    for number in range(5):
        Strategy.objects.create(name=f"s{number}")
        sender = Sender.objects.create(name=f"x{number}", pool=house.pool, strategy=house.strategy)
        account = Account.objects.create(title="T", login_name=f"t{number}", default_sender=sender)
        User.objects.create_user(f"u{number}@t{number}", account=account)
        Isp.objects.create(name=f"i{number}", strategy=house.strategy)
        Pool.objects.create(name=f"p{number}")
    assert cost() == first <= MOST_QUERIES


def test_people_change_their_own_password_and_the_journal_tells_without_it(
    panel: Client, master: User
) -> None:
    path = "/panel/password_change/"
    fields = {
        "old_password": PASSWORD,
        "new_password1": "another fine phrase",
        "new_password2": "another fine phrase",
    }
    wrong = panel.post(path, {**fields, "old_password": "wrong"})
    assert wrong.status_code == 200
    assert b"LAB" in wrong.content
    assert panel.post(path, fields).status_code == 302
    master.refresh_from_db()
    assert master.check_password("another fine phrase")
    entry = AuditEntry.objects.get(action=Action.REPLACED)
    assert (entry.actor, entry.after) == ("master", {"password": "set"})

"""From rows to a numbered snapshot."""

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from control.access import Actor
from control.accounts.choices import ReportsByMail
from control.accounts.models import Account
from control.audit.changes import StaleVersion, policy_change
from control.audit.choices import Action
from control.audit.models import AuditEntry
from control.mta.models import Isp, IspDomain, PoolMember, Strategy
from control.policy import publisher
from control.policy.compiler import compile_policy
from control.policy.models import PolicyRevision
from control.policy.selectors import fleet_state
from control.secrets import forget_secrets
from control.senders.models import SenderIspStrategy
from mailcore.errors import PolicyRefused
from mailcore.policy import codec, lookup
from mailcore.policy.model import PolicySnapshot
from tests.control.conftest import SYSTEM, House

pytestmark = pytest.mark.django_db


def newest() -> PolicyRevision:
    return PolicyRevision.objects.order_by("-revision")[0]


def snapshot_of(row: PolicyRevision) -> PolicySnapshot:
    return codec.decode(bytes(row.body), digest=row.digest, revision=row.revision)


def rename(strategy: Strategy, name: str) -> None:
    with policy_change(SYSTEM) as change:
        change.touch(strategy)
        Strategy.objects.filter(pk=strategy.pk).update(name=name)


def remove_sources(house: House) -> None:
    with policy_change(SYSTEM) as change:
        member = PoolMember.objects.get(pool=house.pool)
        change.touch(member)
        member.delete()


def test_the_snapshot_says_what_the_rows_say(house: House) -> None:
    speed = Strategy.objects.create(name="fast", connections=20)
    isp = Isp.objects.create(name="Example", mx_suffixes=["mx.example.com"])
    IspDomain.objects.create(isp=isp, domain="example.com")
    SenderIspStrategy.objects.create(sender=house.sender, isp=isp, strategy=speed)
    policy = compile_policy()
    assert policy.senders[house.sender.pk].account_ids == (house.account.pk,)
    assert policy.sending_domains["acme.test"].account_ids == (house.account.pk,)
    assert policy.isps[isp.pk].domains == ("example.com",)
    assert policy.isps[0].name == "all others"
    assert policy.sources[house.source.pk].node == "node1"
    (key_id,) = policy.sending_domains["acme.test"].dkim_key_ids
    assert policy.dkim_keys[key_id].secret_ref == house.key.secret_ref
    case = {"sender_id": house.sender.pk, "source_id": house.source.pk}
    assert lookup.strategy_for(policy, isp_id=isp.pk, **case).connections == 20
    assert lookup.strategy_for(policy, isp_id=0, **case).id == house.strategy.pk


def test_an_account_that_takes_events_only_is_mailed_no_reports(house: House) -> None:
    Account.objects.filter(pk=house.other.pk).update(reports_by_mail=ReportsByMail.NONE)
    accounts = compile_policy().accounts
    assert accounts[house.account.pk].mails_reports
    assert not accounts[house.other.pk].mails_reports


def test_the_catch_all_speaks_for_domains_of_no_isp(house: House) -> None:
    slow = Strategy.objects.create(name="slow")
    Isp.objects.filter(is_catch_all=True).update(strategy=slow)
    found = lookup.strategy_for(
        compile_policy(), sender_id=house.sender.pk, isp_id=0, source_id=house.source.pk
    )
    assert found.name == "slow"


def test_one_transaction_makes_at_most_one_revision(house: House) -> None:
    before = newest().revision
    with policy_change(SYSTEM):
        rename(house.strategy, "a")
        rename(house.strategy, "b")
        assert newest().revision == before
    assert newest().revision == before + 1
    assert snapshot_of(newest()).strategies[house.strategy.pk].name == "b"


def test_rows_that_mean_the_same_make_no_revision(house: House) -> None:
    before = newest().revision
    assert publisher.publish(author="test") is None
    with policy_change(SYSTEM) as change:
        change.touch(house.strategy)
    assert newest().revision == before


def test_only_one_revision_can_be_active(house: House) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        PolicyRevision.objects.create(
            revision=999, digest="x", schema_version=1, body=b"x", author="", is_active=True
        )


def test_an_older_revision_pins_and_unpinning_brings_the_saved_changes(house: House) -> None:
    old = newest().revision
    rename(house.strategy, "second")
    publisher.activate(old, actor=SYSTEM)
    assert (fleet_state().active, fleet_state().is_pinned) == (old, True)
    rename(house.strategy, "third")
    state = fleet_state()
    assert (state.active, state.newest, state.is_pending) == (old, old + 2, True)
    assert publisher.unpin(actor=SYSTEM) is not None
    state = fleet_state()
    assert (state.active, state.is_pinned, state.is_pending) == (old + 2, False, False)
    assert snapshot_of(newest()).strategies[house.strategy.pk].name == "third"
    actions = AuditEntry.objects.order_by("id").values_list("action", flat=True)
    assert [one for one in actions if one in (Action.ACTIVATED, Action.UNPINNED)] == [
        Action.ACTIVATED,
        Action.UNPINNED,
    ]


def test_a_refused_change_leaves_rows_audit_and_revision_as_they_were(house: House) -> None:
    before = (newest().revision, AuditEntry.objects.count())
    with pytest.raises(PolicyRefused) as refused:
        remove_sources(house)
    assert refused.value.row == f"sender {house.sender.pk}"
    assert refused.value.field == "pool"
    assert "no active source" in refused.value.reason
    assert house.pool.members.exists()
    assert (newest().revision, AuditEntry.objects.count()) == before


def test_a_key_that_is_not_in_the_vault_is_refused(house: House) -> None:
    forget_secrets(house.key.secret_ref)
    with pytest.raises(PolicyRefused, match=r"s1\._domainkey\.acme\.test is not in the vault"):
        compile_policy()


def test_a_default_sender_of_another_account_is_refused(house: House) -> None:
    Account.objects.filter(pk=house.other.pk).update(default_sender=house.sender)
    with pytest.raises(PolicyRefused, match="is not assigned to the account"):
        compile_policy()


def test_two_isps_with_one_mx_suffix_are_refused(house: House) -> None:
    Isp.objects.create(name="a", mx_suffixes=["mx.test"])
    Isp.objects.create(name="b", mx_suffixes=["mx.test"])
    with pytest.raises(PolicyRefused, match="belongs to ISP"):
        compile_policy()


def test_a_deleted_sender_is_in_no_snapshot(house: House) -> None:
    type(house.sender).objects.update(is_deleted=True)
    assert compile_policy().senders == {}


def test_a_stale_version_is_refused_under_a_lock(house: House) -> None:
    with pytest.raises(StaleVersion), policy_change(SYSTEM) as change:
        change.touch(house.strategy, expected_version=house.strategy.version + 1)


def test_the_author_of_a_revision_is_who_made_the_change(house: House) -> None:
    with policy_change(Actor(label="ann", is_admin=True)) as change:
        change.touch(house.strategy)
        Strategy.objects.filter(pk=house.strategy.pk).update(name="renamed")
    assert newest().author == "ann"


def test_the_command_shows_activates_and_unpins(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    old = newest().revision
    rename(house.strategy, "next")
    call_command("policy", "activate", str(old))
    call_command("policy", "show")
    call_command("policy", "unpin")
    said = capsys.readouterr().out
    assert "pinned: changes wait" in said
    assert "active pinned" in said
    assert f"active: {old + 1}" in said
    assert "node node1: not synced" in said
    with pytest.raises(CommandError, match="no policy revision 12345"):
        call_command("policy", "activate", "12345")

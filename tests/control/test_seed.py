"""The rows an installation begins with."""

import re
import stat

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from control.accounts.models import Account, User
from control.accounts.services import authenticate_token
from control.domains.models import DkimKey
from control.mailboxes.models import Mailbox
from control.mta.models import BouncePattern, DefaultRule, Isp, RetryRule, Strategy
from control.notify.models import AlertRule, SystemMail
from control.policy.models import PolicyRevision
from control.policy.system_rows import shipped_rules
from control.secrets import get_secret
from control.senders.models import Sender
from lab.world import wide_world
from mailcore.policy import codec
from mailio.settings import Settings

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def bare(db: None) -> None:
    """An installation that was migrated and no more."""
    for model in (BouncePattern, DefaultRule, RetryRule, Isp, Strategy, PolicyRevision):
        model.objects.all().delete()


def seed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    call_command("seed", *options)
    return capsys.readouterr().out


def test_a_live_seed_makes_the_system_s_rows_an_operator_and_revision_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = seed(capsys)
    assert "policy revision: 1" in said
    strategy = Strategy.objects.get()
    assert (strategy.name, strategy.is_system) == ("60:60", True)
    assert strategy.messages_per(60) == 60
    assert RetryRule.objects.get().is_system
    assert DefaultRule.objects.get().is_system
    assert Isp.objects.get().is_catch_all
    assert BouncePattern.objects.filter(is_system=True).count() == len(shipped_rules())
    password = re.findall(r"password: (\S+)", said)[0]
    operator = User.objects.get()
    assert operator.check_password(password)
    assert operator.is_superuser
    assert Sender.objects.count() == 0


def test_the_lab_s_seed_compiles_and_does_nothing_the_second_time(
    capsys: pytest.CaptureFixture[str], stores: Settings
) -> None:
    first = seed(capsys, "--lab")
    path = stores.var_dir / "api-token"
    clear = path.read_text().strip()
    assert "password:" in first
    assert clear not in first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    row = PolicyRevision.objects.get()
    policy = codec.decode(bytes(row.body), digest=row.digest, revision=row.revision)
    assert row.revision == 1
    assert {key.algorithm for key in policy.dkim_keys.values()} == {"rsa-sha256", "ed25519-sha256"}
    assert {source.node for source in policy.sources.values()} == {"node1"}
    assert all(source.address.startswith("127.") for source in policy.sources.values())
    counts = (DkimKey.objects.count(), Isp.objects.count(), Account.objects.count())
    Strategy.objects.filter(name="60:60").update(connections=9)
    second = seed(capsys, "--lab")
    assert "password:" not in second
    assert (DkimKey.objects.count(), Isp.objects.count(), Account.objects.count()) == counts
    assert Strategy.objects.get(name="60:60").connections == 9
    token = authenticate_token(clear)
    assert token is not None
    assert token.account is not None
    path.unlink()
    seed(capsys, "--lab")
    assert authenticate_token(clear) is None  # a lost file means a new token
    assert authenticate_token(path.read_text().strip()) is not None


def test_a_second_seed_keeps_what_an_operator_made_of_system_mail_and_alerts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOREPLY_MAILER", '{"server": "mx.test", "email": "a@example.com"}')
    seed(capsys, "--lab")
    assert SystemMail.objects.get().relay_host == "mx.test"
    SystemMail.objects.update(relay_host="other.test", remind_after_s=0)
    AlertRule.objects.update(threshold=7.0, is_active=False)
    seed(capsys, "--lab")
    row = SystemMail.objects.get()
    assert (row.relay_host, row.email, row.remind_after_s) == ("other.test", "a@example.com", 0)
    assert set(AlertRule.objects.values_list("threshold", "is_active")) == {(7.0, False)}


def test_a_noreply_mailer_that_is_none_stops_the_seed_with_the_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "NOREPLY_MAILER", '{"server": "mx.test", "email": "a@example.com", "port": 0}'
    )
    with pytest.raises(CommandError, match="NOREPLY_MAILER: port: Ensure"):
        call_command("seed")
    assert not SystemMail.objects.exists()  # nothing of a seed that failed stays


def test_the_lab_s_providers_become_isps_and_hosted_domains_one_site(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed(capsys, "--lab")
    world = wide_world()
    found = {isp.name: isp for isp in Isp.objects.filter(is_system=False)}
    assert sorted(found) == sorted(provider.title for provider in world.providers)
    assert [isp.name for isp in found.values() if isp.is_one_site] == ["Officia"]
    assert not Mailbox.objects.exists()  # nobody said where the lab's are


def test_the_lab_s_mailboxes_are_read_where_the_lab_listens_now(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_POP3_PORT", "10110")
    seed(capsys, "--lab")
    world = wide_world()
    found = {mailbox.login: mailbox for mailbox in Mailbox.objects.all()}
    assert {login: mailbox.purpose for login, mailbox in found.items()} == {
        "bounces": "bounces",
        "complaints": "complaints",
    }
    for account in (world.bounces, world.complaints):
        assert get_secret(found[account.user].secret_ref) == account.password.encode()
    monkeypatch.setenv("LAB_POP3_PORT", "10111")
    before = PolicyRevision.objects.count()
    seed(capsys, "--lab")
    assert {mailbox.port for mailbox in Mailbox.objects.all()} == {10111}
    assert PolicyRevision.objects.count() == before + 1
    seed(capsys, "--lab")
    assert PolicyRevision.objects.count() == before + 1


def test_a_world_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_WORLD", "flat")
    with pytest.raises(CommandError, match="LAB_WORLD: 'flat' is none of default, wide"):
        call_command("seed", "--lab")


def test_the_lab_is_refused_in_a_live_installation(
    monkeypatch: pytest.MonkeyPatch, stores: Settings
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(settings, "POSTFLEET", replace(stores, mode="live"))
    with pytest.raises(CommandError, match="live installation"):
        call_command("seed", "--lab")


def test_a_lost_password_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    seed(capsys)
    call_command("reset_password")
    password = re.findall(r"password: (\S+)", capsys.readouterr().out)[0]
    assert User.objects.get().check_password(password)
    with pytest.raises(CommandError, match="no user 'nobody'"):
        call_command("reset_password", "nobody")


def test_commands_say_what_is_missing_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "POSTFLEET", None)
    with pytest.raises(CommandError, match="DATABASE_URL is not set"):
        call_command("seed")

"""A sender's relay is policy: its login goes to the vault, its mistakes come back by field."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from control.audit.models import AuditEntry
from control.policy.compiler import compile_policy
from control.secrets import get_secret, has_secret
from control.senders.models import Sender
from mailcore.errors import PolicyRefused
from mailcore.policy import codec, model, words
from tests.control.conftest import House

pytestmark = pytest.mark.django_db


def form(house: House, **changes: Any) -> dict[str, Any]:
    """What the page of a sender sends, as an operator fills it in."""
    fields = {
        "name": "bulk",
        "type": "akmta",
        "accounts": [house.account.pk],
        "pool": house.pool.pk,
        "domain_type": "from_header",
        "tls": "opportunistic",
        "return_path_mode": "per_message",
        "uses_relay": "on",
        "relay_host": "Relay.Example.com",
        "relay_port": 587,
        "relay_tls": "starttls",
        "relay_verifies": "on",
        "relay_auth": "any",
        "relay_login": "us",
        "relay_password": "very secret",
        "relay_asks_reports": "on",
        "isp_strategies-TOTAL_FORMS": 0,
        "isp_strategies-INITIAL_FORMS": 0,
        "expected_version": Sender.objects.get(pk=house.sender.pk).version,
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def save(panel: Client, house: House, **changes: Any) -> str:
    """Save the page of the sender; return what comes back, in words, "" once it is saved."""
    page = reverse("admin:senders_sender_change", args=[house.sender.pk])
    answer = panel.post(page, form(house, **changes))
    if answer.status_code == 302:
        return ""
    errors = re.findall(r'<ul class="errorlist[^>]*>(.*?)</ul>', answer.content.decode(), re.S)
    return unescape(re.sub(r"<[^>]+>", " ", " ".join(errors)))


def test_a_relay_comes_to_the_workers_as_its_row_says(house: House, panel: Client) -> None:
    assert save(panel, house) == ""
    row = Sender.objects.get(pk=house.sender.pk)
    policy = compile_policy()
    assert policy.relays == {
        row.pk: model.Relay(
            sender_id=row.pk,
            host="relay.example.com",
            port=587,
            tls=words.RelayTls.STARTTLS,
            verifies=True,
            auth=words.RelayAuth.ANY,
            login="us",
            secret_ref=row.relay_secret_ref,
        )
    }
    assert policy.senders[row.pk].return_path_mode is words.ReturnPathMode.PER_MESSAGE
    encoded = codec.encode(policy)
    back = codec.decode(encoded.body, digest=encoded.digest, revision=0)
    assert back.relays == policy.relays


def test_its_password_is_in_the_vault_alone(house: House, panel: Client) -> None:
    save(panel, house)
    row = Sender.objects.get(pk=house.sender.pk)
    assert get_secret(row.relay_secret_ref) == b"very secret"
    page = panel.get(reverse("admin:senders_sender_change", args=[row.pk])).content.decode()
    assert "very secret" not in page
    told = [str(entry.before) + str(entry.after) for entry in AuditEntry.objects.all()]
    assert not any("very secret" in each for each in told)
    assert any("relay password" in each for each in told)
    assert save(panel, house, relay_password=None, relay_port=2525) == ""
    assert get_secret(row.relay_secret_ref) == b"very secret"
    assert save(panel, house, relay_password="another") == ""
    assert get_secret(row.relay_secret_ref) == b"another"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"relay_host": ""}, "Name the relay's host."),
        ({"relay_host": "no host"}, "relay_host|domain"),
        ({"relay_port": 0}, "greater than or equal to 1"),
        ({"relay_login": ""}, "Give the login."),
        ({"relay_password": None}, "Give the password for the relay."),
        ({"relay_tls": "none"}, "the login would travel in clear"),
    ],
)
def test_what_cannot_work_is_refused_by_field(
    house: House, panel: Client, changes: dict[str, Any], error: str
) -> None:
    assert re.search(error, save(panel, house, **changes))
    assert compile_policy().relays == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"relay_auth": "none", "relay_login": "", "relay_password": None},
        {"relay_host": "[192.0.2.25]", "relay_verifies": None},
        {"relay_host": "2001:db8::25"},
        {"relay_tls": "none", "relay_allows_clear": "on"},
        {"uses_relay": None, "relay_host": "", "relay_login": "", "relay_password": None},
    ],
)
def test_what_works_is_saved(house: House, panel: Client, changes: dict[str, Any]) -> None:
    assert save(panel, house, **changes) == ""


@pytest.mark.parametrize("moved", [{"relay_host": "mine.test"}, {"relay_login": "other"}])
def test_a_password_never_goes_to_another_host_or_login(
    house: House, panel: Client, moved: dict[str, Any]
) -> None:
    save(panel, house)
    old = Sender.objects.get(pk=house.sender.pk).relay_secret_ref
    stays = {"relay_host": "relay.example.com", "relay_password": None}
    assert "Give the password" in save(panel, house, **(stays | moved))
    assert get_secret(old) == b"very secret"
    assert save(panel, house, **(stays | moved | {"relay_password": "another"})) == ""
    new = Sender.objects.get(pk=house.sender.pk).relay_secret_ref
    assert get_secret(new) == b"another"
    # Workers that still have the policy of before look under the old reference.
    assert not has_secret(old)


@pytest.mark.parametrize(
    "changes",
    [
        {"uses_relay": None, "relay_host": "relay.example.com"},
        {"relay_auth": "none", "relay_host": "relay.example.com"},
    ],
)
def test_a_password_that_nobody_logs_in_with_is_not_kept(
    house: House, panel: Client, changes: dict[str, Any]
) -> None:
    save(panel, house)
    ref = Sender.objects.get(pk=house.sender.pk).relay_secret_ref
    assert save(panel, house, **changes) == ""
    assert not has_secret(ref)
    assert Sender.objects.get(pk=house.sender.pk).relay_secret_ref == ""


def test_the_password_goes_with_its_sender_and_is_asked_for_before_it_comes_back(
    house: House, panel: Client
) -> None:
    save(panel, house)
    ref = Sender.objects.get(pk=house.sender.pk).relay_secret_ref
    page = reverse("admin:senders_sender_delete", args=[house.sender.pk])
    assert panel.post(page, {"post": "yes"}).status_code == 302
    row = Sender.objects.get(pk=house.sender.pk)
    assert (row.is_deleted, row.relay_secret_ref, has_secret(ref)) == (True, "", False)
    chosen = {"action": "restore", "_selected_action": [row.pk]}
    panel.post(reverse("admin:senders_sender_changelist"), chosen)
    assert Sender.objects.get(pk=row.pk).is_deleted
    assert save(panel, house, relay_host="relay.example.com") == ""
    panel.post(reverse("admin:senders_sender_changelist"), chosen)
    assert not Sender.objects.get(pk=row.pk).is_deleted


def test_a_login_whose_password_is_gone_is_refused_with_its_row(house: House) -> None:
    Sender.objects.filter(pk=house.sender.pk).update(
        uses_relay=True, relay_host="relay.test", relay_auth="PLAIN", relay_login="us"
    )
    with pytest.raises(PolicyRefused) as refused:
        compile_policy()
    assert (refused.value.row, refused.value.field) == (
        f"sender {house.sender.pk}",
        "relay_password",
    )

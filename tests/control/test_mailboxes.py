"""Mailboxes are policy: a change reaches the pollers, its password does not."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from control.audit.changes import policy_change
from control.mailboxes import services
from control.mailboxes.choices import MailboxTls, Protocol, Purpose
from control.mailboxes.models import Mailbox
from control.policy.compiler import compile_policy
from control.policy.models import PolicyRevision
from mailcore.policy import codec, model
from tests.control.conftest import SYSTEM, House

pytestmark = pytest.mark.django_db


def create(house: House) -> Mailbox:
    with policy_change(SYSTEM) as change:
        box = Mailbox.objects.create(
            name="bounces",
            account=house.account,
            purpose=Purpose.COMPLAINTS,
            protocol=Protocol.POP3,
            host="pop.example.com",
            port=110,
            tls=MailboxTls.STARTTLS,
            login="bounces@example.com",
            secret_ref=services.new_secret_ref(),
            poll_interval_s=300.0,
            deletes_after_reading=False,
        )
        services.store_password(box, "very secret")
        change.created(box)
    return box


def test_a_mailbox_comes_to_the_pollers_as_its_row_says(house: House) -> None:
    box = create(house)
    assert compile_policy().mailboxes == {
        box.pk: model.Mailbox(
            id=box.pk,
            name="bounces",
            host="pop.example.com",
            port=110,
            login="bounces@example.com",
            secret_ref=box.secret_ref,
            protocol=model.MailboxProtocol.POP3,
            tls=model.MailboxTls.STARTTLS,
            purpose=model.MailboxPurpose.COMPLAINTS,
            account_id=house.account.pk,
            poll_interval_s=300.0,
            deletes_after_reading=False,
        )
    }


def test_a_mailbox_is_a_change_of_policy_and_its_password_is_in_no_snapshot(house: House) -> None:
    before = PolicyRevision.objects.count()
    create(house)
    assert PolicyRevision.objects.count() == before + 1
    newest = PolicyRevision.objects.latest("revision")
    told = codec.decode(bytes(newest.body), digest=newest.digest, revision=newest.revision)
    assert len(told.mailboxes) == 1
    assert "very secret" not in repr(told)


def test_a_mailbox_that_is_not_active_is_read_by_nobody(house: House) -> None:
    Mailbox.objects.filter(pk=create(house).pk).update(is_active=False)
    assert compile_policy().mailboxes == {}


def test_the_words_of_the_panel_are_those_of_the_policy() -> None:
    for choices, words in (
        (Protocol, model.MailboxProtocol),
        (MailboxTls, model.MailboxTls),
        (Purpose, model.MailboxPurpose),
    ):
        assert {one.value for one in choices} == {one.value for one in words}


def test_the_page_shows_when_a_mailbox_was_read_and_what_failed(
    house: House, panel: Client
) -> None:
    box = create(house)
    page = reverse("admin:mailboxes_mailbox_changelist")
    assert panel.get(page).status_code == 200
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mailbox_poll (mailbox_id, node, ended_at, error)"
            " VALUES (%s, 'n1', '2026-03-01 12:00+00', 'pop.example.com refused the login')",
            [box.pk],
        )
    shown = panel.get(page).content.decode()
    assert "pop.example.com refused the login" in shown
    assert "2026" in shown

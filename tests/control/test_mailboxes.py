"""Mailboxes are policy: a change reaches the pollers, its password does not."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from control.audit.changes import policy_change
from control.mailboxes import services
from control.mailboxes.choices import MailboxTls, Protocol, Purpose
from control.mailboxes.models import Mailbox
from control.mailboxes.shown import FATES, KINDS
from control.policy.compiler import compile_policy
from control.policy.models import PolicyRevision
from mailcore.classify.inbound import InboundKind
from mailcore.inbound import Fate
from mailcore.policy import codec, model, words
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
            protocol=words.MailboxProtocol.POP3,
            tls=words.MailboxTls.STARTTLS,
            purpose=words.MailboxPurpose.COMPLAINTS,
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
    for choices, known in (
        (Protocol, words.MailboxProtocol),
        (MailboxTls, words.MailboxTls),
        (Purpose, words.MailboxPurpose),
    ):
        assert {one.value for one in choices} == {one.value for one in known}


BEGUN = "INSERT INTO mailbox_poll (mailbox_id, node, begun_at) VALUES (%s, 'n1', now())"
FAILED = (
    "UPDATE mailbox_poll SET ended_at = '2026-03-01 12:00+00', begun_at = '2026-03-01 11:59+00',"
    " next_at = '2026-03-01 12:05+00', read_count = 17,"
    " error = 'pop.example.com refused the login: -ERR <no>' WHERE mailbox_id = %s"
)
TALLY = (
    "INSERT INTO mailbox_tally (mailbox_id, day, kind, fate, messages)"
    " SELECT %s, (now() AT TIME ZONE 'UTC')::date - %s, %s, %s, %s"
)


def execute(sql: str, *params: str | int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def words_of(page: str) -> str:
    """Return what a person reads of a page, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_list_shows_when_each_mailbox_was_read_is_due_and_what_failed(
    house: House, panel: Client
) -> None:
    box = create(house)
    page = reverse("admin:mailboxes_mailbox_changelist")
    assert panel.get(page).status_code == 200
    execute(BEGUN, box.pk)
    assert panel.get(page).status_code == 200
    execute(FAILED, box.pk)
    shown = words_of(panel.get(page).content.decode())
    assert "pop.example.com refused the login: -ERR <no>" in shown
    assert "12:00" in shown
    assert "12:05" in shown


def test_the_page_of_a_mailbox_tells_its_last_reading_and_the_next(
    house: House, panel: Client
) -> None:
    box = create(house)
    page = reverse("admin:mailboxes_mailbox_change", args=[box.pk])
    shown = words_of(panel.get(page).content.decode())
    assert "last read not yet" in shown
    assert "next within half a minute" in shown
    assert "Nothing was read from this mailbox yet." in shown
    execute(BEGUN, box.pk)
    assert "next being read since" in words_of(panel.get(page).content.decode())
    execute(FAILED, box.pk)
    shown = words_of(panel.get(page).content.decode())
    assert "The last reading failed: pop.example.com refused the login: -ERR" in shown
    assert "last read 2026-03-01 12:00:00 by node n1 messages then 17" in shown
    assert "next 2026-03-01 12:05:00" in shown
    Mailbox.objects.filter(pk=box.pk).update(is_active=False)
    shown = words_of(panel.get(page).content.decode())
    assert "Not active: nobody reads this mailbox." in shown
    assert "next never" in shown


def test_the_page_of_a_mailbox_counts_what_was_read_by_kind_and_fate(
    house: House, panel: Client
) -> None:
    box = create(house)
    execute(TALLY, box.pk, 0, "bounce", "told", 3)
    execute(TALLY, box.pk, 6, "bounce", "told", 1200)
    execute(TALLY, box.pk, 7, "bounce", "told", 40000)
    execute(TALLY, box.pk, 1, "complaint", "forged", 5)
    execute(TALLY, box.pk + 1, 0, "reply", "told", 999)
    page = panel.get(reverse("admin:mailboxes_mailbox_change", args=[box.pk])).content.decode()
    rows = [words_of(row) for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", page, re.S)]
    assert len(rows) == 2
    assert rows[0].startswith("bounces")
    assert "told as events of their messages" in rows[0]
    assert " 3 1,203 41,203 " in rows[0]
    assert rows[1].startswith("complaints")
    assert "no token in it verifies" in rows[1]
    assert " 0 5 5 " in rows[1]
    assert "answers of people" not in page


def test_a_new_mailbox_has_nothing_to_show_yet(system_rows: None, panel: Client) -> None:
    page = panel.get(reverse("admin:mailboxes_mailbox_add"))
    assert page.status_code == 200
    assert "What was read" not in page.content.decode()


def test_the_form_of_a_new_mailbox_begins_with_what_can_be_read(
    system_rows: None, panel: Client
) -> None:
    page = panel.get(reverse("admin:mailboxes_mailbox_add")).content.decode()
    assert '<option value="pop3" selected>' in page
    assert re.search(r'name="port" value="995"', page)


def test_every_kind_and_fate_that_is_counted_has_its_words() -> None:
    assert set(KINDS) == {kind.value for kind in InboundKind}
    assert set(FATES) == {fate.value for fate in Fate} - {Fate.POSTPONED.value}

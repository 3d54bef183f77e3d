"""The page of the check: who sees it, what stands, what is over, and when it was looked at."""

from __future__ import annotations

import json
import re

import pytest
from django.db import connection
from django.test import Client

from control.accounts.models import User
from control.notify import alerts
from control.notify.choices import AlertKind
from control.notify.models import Alert, AlertRule
from control.notify.readings import PROBES
from control.notify.words import figures_of, page_of, sentence
from control.reports.views import POLICY
from tests.control.conftest import House

pytestmark = pytest.mark.django_db
PAGE = "/panel/reports/check"


def run(sql: str, *params: str | int | bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params or None)


def note(
    invariant: str, *, node: str = "", count: int = 1, mended: int = 0, is_over: bool = False
) -> None:
    run(
        "INSERT INTO queue_finding (invariant, node, count, mended, examples, note, ended_at)"
        " VALUES (%s, %s, %s, %s, %s, '<b>why</b>', CASE WHEN %s THEN now() END)",
        *(invariant, node, count, mended, json.dumps([4711, 4712]), is_over),
    )


def look(part: str = "ledger", node: str = "", age: str = "1 minute") -> None:
    run(
        "INSERT INTO queue_check (part, node, took_s, looked_at, is_whole, ended_at)"
        " VALUES (%s, %s, 2.5, 1234567, %s, now() - %s::interval)",
        *(part, node, part == "ledger", age),
    )


def page(client: Client) -> str:
    answer = client.get(PAGE)
    assert answer.status_code == 200
    assert answer["Content-Security-Policy"] == POLICY
    return re.sub(r"\s+", " ", answer.content.decode())


def test_only_administrators_see_it(account_user: User) -> None:
    client = Client(headers={"host": "localhost"})
    assert client.get(PAGE).status_code == 302
    client.force_login(account_user)
    assert client.get(PAGE).status_code == 403


def test_the_menu_leads_to_it_under_the_queue(panel: Client) -> None:
    for path in ("/panel/", "/panel/queue/lane/"):
        text = panel.get(path).content.decode()
        assert text.count(f'href="{PAGE}"') >= 1
        assert text.index('href="/panel/queue/"') < text.index(f'href="{PAGE}"')
    assert panel.get("/panel/queue/").status_code == 200


def test_before_the_first_look_it_says_so(panel: Client) -> None:
    text = page(panel)
    assert "The queue was not checked yet." in text
    assert "Nothing: every recipient" not in text


def test_a_queue_that_is_right_is_said_to_be(panel: Client, house: House) -> None:
    look()
    look("content", "node1")
    text = page(panel)
    assert "Nothing: every recipient has an owner" in text
    assert "all 1,234,567, in 2.5 s" in text
    assert "a sample of 1,234,567" in text
    assert "content (node1)" in text
    assert "silent" not in text


def test_what_stands_is_told_with_examples_and_what_helps(panel: Client) -> None:
    look()
    note("no_owner", count=12345)
    note("content_lost", node="node1")
    note("of_a_later_version")
    text = page(panel)
    assert "A leased row belongs to no process" in text
    assert "12,345 rows" in text
    assert '<a href="/panel/queue/row/4711/change/">4711</a>' in text
    assert "<code>content_lost</code> on node1" in text
    assert "A newer version found this." in text
    assert "&lt;b&gt;why&lt;/b&gt;" in text
    assert "<b>why</b>" not in text


def test_what_was_mended_is_under_over(panel: Client) -> None:
    look()
    note("expired", count=0, mended=4321, is_over=True)
    text = page(panel)
    assert "Nothing: every recipient" in text
    over = text[text.index(">Over<") :]
    assert "4,321" in over
    assert "<code>expired</code>" in over


def test_the_oldest_of_each_state_is_a_bar(panel: Client) -> None:
    look()
    run("INSERT INTO queue_age VALUES (0, 'retry', 7, 7200, 1), (2, '', 2, 3600, 2)")
    text = page(panel)
    assert 'aria-label="waiting: retry: 2 h"' in text
    assert 'aria-label="unknown: 1 h"' in text
    assert 'width="50%"' in text


def test_a_check_that_is_silent_is_told(panel: Client, house: House) -> None:
    look(age="2 hours")
    look("content", "node1", "4 hours")
    look("content", "a node that is no more", "4 hours")
    text = page(panel)
    assert text.count("The check is silent:") == 2
    assert "content (node1), last looked at 4 h ago." in text


# --- alerts ---------------------------------------------------------------------------------------


def test_each_finding_is_an_alert_until_it_has_ended(house: House) -> None:
    look()
    note("no_owner", count=3)
    note("content_lost", node="node1")
    note("expired", count=0, mended=5, is_over=True)
    probes = {AlertKind.QUEUE_FINDINGS: PROBES[AlertKind.QUEUE_FINDINGS]}
    alerts.look(probes=probes)
    first, second = Alert.objects.order_by("pk")
    assert first.subject == "finding:no_owner:"
    assert sentence(first) == (
        "The queue is not as it must be: A leased row belongs to no process: nobody sends it or"
        " gives it back."
    )
    assert page_of(first) == PAGE
    assert second.about.endswith("(node1)")
    assert any("4711, 4712" in words for _, words in figures_of(first))
    run("UPDATE queue_finding SET ended_at = now()")
    alerts.look(probes=probes)
    assert {one.state for one in Alert.objects.all()} == {"cleared"}


def test_a_check_that_does_not_run_any_more_is_an_alert(house: House) -> None:
    rule = AlertRule(kind=AlertKind.QUEUE_FINDINGS)
    probe = PROBES[AlertKind.QUEUE_FINDINGS]
    now = house.account.created_at
    look()
    assert probe(rule, now) == []
    run("UPDATE queue_check SET ended_at = now() - interval '2 hours'")
    (one,) = probe(rule, now)
    assert (one.subject, one.value) == ("check:ledger:", 1.0)

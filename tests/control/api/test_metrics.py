"""GET /metrics: who may read it, what it tells, and what it costs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from control.accounts.models import ApiToken
from control.accounts.services import issue_token
from control.mailboxes.models import Mailbox
from tests.control.api.conftest import Api, body_of, message, problem_of
from tests.control.conftest import SYSTEM, House

pytestmark = pytest.mark.django_db
SAMPLE = re.compile(r'(\w+)(?:\{(\w+="[^"]*"(?:,\w+="[^"]*")*)\})? (\S+)')


def scrape(api: Api, *scopes: str) -> Any:
    name, wanted = f"prometheus {ApiToken.objects.count()}", list(scopes or ["metrics"])
    _row, token = issue_token(name=name, account=None, scopes=wanted, actor=SYSTEM)
    return api.client.get("/metrics", headers={"Authorization": f"Bearer {token}"})


def values_of(answer: Any) -> dict[str, float]:
    assert answer.status_code == 200, answer.content
    assert answer["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in answer.content.decode().splitlines() if not line.startswith("#")]
    found = [SAMPLE.fullmatch(line) for line in lines]
    assert all(found), lines
    return {f"{m[1]}{{{m[2] or ''}}}": float(m[3]) for m in found if m}


def note_spool(node: str = "node1") -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO spool_node (node, measured_at, total_bytes, free_bytes, growth,"
            " hours_left, segments, kept, deleted_all) VALUES (%s, now(), 1000, 400, 1.5, 7, 3,"
            """ '{"rows": [2, 300]}', 9)""",
            [node],
        )


def test_without_the_scope_nobody_reads_them(api: Api) -> None:
    assert problem_of(api.client.get("/metrics"))[0][1] == "not_authenticated"
    assert api.client.get("/metrics").status_code == 401
    answer = scrape(api, "admin")
    assert answer.status_code == 403
    assert problem_of(answer) == [("", "scope_missing")]


def test_an_accounts_token_cannot_have_the_scope_nor_use_it(api: Api, house: House) -> None:
    token = ApiToken(name="x", account=house.account, scopes=["metrics"], token_hash="x")
    with pytest.raises(ValidationError, match="whole installation"):
        token.full_clean()
    ApiToken.objects.filter(account=house.account).update(scopes=["metrics"])
    answer = api.get("/metrics")
    assert answer.status_code == 403
    assert problem_of(answer) == [("", "account_token")]


def test_an_empty_installation_tells_zeros(api: Api) -> None:
    values = values_of(scrape(api))
    assert values['postfleet_queue_recipients{state="waiting",mail_class="priority"}'] == 0
    assert values['postfleet_outbox_refused_batches{consumer="statistics"}'] == 0
    assert values["postfleet_queue_no_content_recipients{}"] == 0


def test_the_queue_the_outbox_and_mail_without_content_are_told(api: Api) -> None:
    body_of(api.send(message(to=["a@x.test", "b@x.test"])))
    api.query("UPDATE ledger_row SET reason = 'no_content', due_at = now() - interval '100 s'")
    api.query("UPDATE ledger_lane SET next_due_at = now() - interval '100 s'")
    api.query("UPDATE ledger_outbox SET created_at = now() - interval '50 s'")
    values = values_of(scrape(api))
    assert values['postfleet_queue_recipients{state="waiting",mail_class="main"}'] == 2
    assert values["postfleet_queue_no_content_recipients{}"] == 2
    assert 100 <= values['postfleet_queue_oldest_due_seconds{mail_class="main"}'] < 200
    assert values['postfleet_queue_oldest_due_seconds{mail_class="priority"}'] == 0
    assert 50 <= values['postfleet_outbox_lag_seconds{consumer="stop_list"}'] < 200


def test_what_the_checker_found_is_told(api: Api) -> None:
    values = values_of(scrape(api))
    assert values['postfleet_queue_findings{invariant="no_owner"}'] == 0
    assert values['postfleet_queue_oldest_age_seconds{state="unknown"}'] == 0
    api.query(
        "INSERT INTO queue_finding (invariant, node, count, ended_at) VALUES"
        " ('content_lost', 'n1', 2, NULL), ('content_lost', 'n2', 3, NULL),"
        " ('expired', '', 9, now())"
    )
    api.query("INSERT INTO queue_check (part, took_s, looked_at) VALUES ('ledger', 1, 7)")
    api.query("INSERT INTO queue_age VALUES (0, 'new', 1, 5, 1), (0, 'retry', 1, 90, 2)")
    values = values_of(scrape(api))
    assert values['postfleet_queue_findings{invariant="content_lost"}'] == 5
    assert values['postfleet_queue_findings{invariant="expired"}'] == 0
    assert values['postfleet_queue_oldest_age_seconds{state="waiting"}'] == 90
    assert values['postfleet_queue_checked_timestamp_seconds{part="ledger",node=""}'] > 1.7e9


def test_each_node_tells_its_spool(api: Api) -> None:
    note_spool('odd"name')
    note_spool()
    text = scrape(api).content.decode()
    assert 'postfleet_spool_disk_free_bytes{node="node1"} 400' in text
    assert 'postfleet_spool_deleted_segments_total{node="node1"} 9' in text
    assert 'postfleet_spool_kept_bytes{node="node1",keeper="rows"} 300' in text
    assert r'postfleet_spool_disk_hours_left{node="odd\"name"} 7' in text
    assert "postfleet_spool_swept_timestamp_seconds{" not in text  # there was no sweep yet


def walk(text: str) -> set[str]:
    """Read a scrape letter by letter, as the format's own description has it; return the series."""
    seen: set[str] = set()
    heads: list[str] = []
    kind = ""
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            heads.append(line.split(" ")[2])
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == heads[-1]
            continue
        assert not line.startswith("#")
        name = re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", line)[0]  # type: ignore[index]
        assert name == heads[-1]
        rest = line[len(name) :]
        if rest.startswith("{"):
            labels = re.match(
                r'\{(?:[a-zA-Z_]\w*="(?:[^"\\]|\\[n"\\])*"(?:,(?!\})|(?=\})))*\}', rest
            )
            assert labels, line
            rest = rest[labels.end() :]
        series = line[: len(line) - len(rest)]
        assert series not in seen
        seen.add(series)
        value = float(rest.removeprefix(" "))
        assert rest.startswith(" ")
        assert value >= 0 or kind == "gauge"
    assert len(set(heads)) == len(heads)
    return seen


def test_whatever_nodes_and_mailboxes_are_called_the_text_is_of_the_format(api: Api) -> None:
    names = ["n\n# TYPE x gauge", 'q"}', "\\", "a,b={}", "ü\r", "node1"]
    box = Mailbox.objects.create(name=names[1], host="pop.example.com", port=995, login="b")
    api.query("INSERT INTO mailbox_poll (mailbox_id, ended_at) VALUES (%s, now())", box.pk)
    for name in names:
        note_spool(name)
    seen = walk(scrape(api).content.decode())
    assert len([one for one in seen if one.startswith("postfleet_spool_segments{")]) == len(names)
    assert r'postfleet_mailbox_failed{mailbox="q\"}"}' in seen


def test_a_mailbox_tells_when_it_was_read_and_what_came(api: Api) -> None:
    row = Mailbox.objects.create(name="bounces", host="pop.example.com", port=995, login="b")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mailbox_poll (mailbox_id, ended_at, error)"
            " VALUES (%s, now() - interval '70 s', 'no route')",
            [row.pk],
        )
        cursor.execute(
            "INSERT INTO mailbox_tally VALUES (%s, '2024-01-01', 'dsn', 'told', 3),"
            " (%s, '2024-01-02', 'dsn', 'told', 4)",
            [row.pk, row.pk],
        )
    values = values_of(scrape(api))
    assert 70 <= values['postfleet_mailbox_read_age_seconds{mailbox="bounces"}'] < 170
    assert values['postfleet_mailbox_failed{mailbox="bounces"}'] == 1
    name = 'postfleet_mailbox_messages_total{mailbox="bounces",kind="dsn",fate="told"}'
    assert values[name] == 7


def test_a_scrape_costs_few_queries_however_many_nodes_there_are(
    api: Api, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(20):
        note_spool(f"n{number}")
    scrape(api)
    with django_assert_max_num_queries(54):  # each in a transaction with a time limit of its own
        scrape(api)

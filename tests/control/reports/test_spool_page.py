"""The page of the spools: who sees it, what it says, and that it shows files' names harmlessly."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from control.accounts.models import User
from control.reports.spool import HistoryPoint, SpoolNode, spool_nodes
from control.reports.spool_shown import disk_chart, octets, shown
from control.reports.views import POLICY
from mailcore.spool import DiskState
from tests.control.conftest import House

pytestmark = pytest.mark.django_db
PAGE = "/panel/reports/spool"
GB = 2**30


def note(node: str = "node1", **changes: Any) -> None:
    values: dict[str, Any] = {
        "measured_at": "now",
        "swept_at": "now",
        "total_bytes": 100 * GB,
        "free_bytes": 40 * GB,
        "warn_bytes": 2 * GB,
        "stop_bytes": GB,
        "growth": 1000.0,
        "hours_left": 5000.0,
        "segments": 7,
        "size_bytes": 10 * GB,
        "live_bytes": 5 * GB,
        "kept": '{"rows": [4, 8589934592], "grace": [3, 2147483648]}',
        "oldest_at": "2024-01-01",
        "oldest_keeper": "rows",
        **changes,
    }
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO spool_node (node, {names}) VALUES (%s, {marks})",  # noqa: S608 (constants)
            [node, *values.values()],
        )


def page(client: Client) -> str:
    answer = client.get(PAGE)
    assert answer.status_code == 200
    assert answer["Content-Security-Policy"] == POLICY
    return re.sub(r"\s+", " ", answer.content.decode())


def test_only_administrators_see_the_disks(account_user: User, db: None) -> None:
    client = Client(headers={"host": "localhost"})
    assert client.get(PAGE).status_code == 302
    client.force_login(account_user)
    assert client.get(PAGE).status_code == 403


def test_the_menu_leads_to_it(panel: Client) -> None:
    for path in ("/panel/", "/panel/nodes/node/"):
        assert f'href="{PAGE}"' in panel.get(path).content.decode()
    assert panel.get("/panel/nodes/").status_code == 200  # the page of one app is as before


def test_a_node_that_has_told_nothing_is_named(house: House, panel: Client) -> None:
    text = page(panel)
    assert "<strong>node1:</strong> nothing was heard" in text


def test_the_figures_of_a_node_are_shown_in_words(house: House, panel: Client) -> None:
    note(deleted=3, deleted_bytes=3 * GB, compacted=2, moved_rows=1234, retention_s=86400)
    text = page(panel)
    assert "nothing was heard" not in text
    assert '<p class="figure">40 GB</p>' in text
    assert "40 % of 100 GB" in text
    assert "kept 1 d after writing" in text
    assert "kept by mail that still has to be sent" in text
    assert "3 segments, 3 GB" in text
    assert "2 segments: 0 B copied, 1,234 rows moved" in text
    assert 'role="alert"' not in text
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO spool_sample SELECT 'node1', date_trunc('minute', now()) - n *"
            " interval '1 hour', 41000000000, 5 FROM generate_series(1, 5) n"
        )
    assert "h ago: 38 GB free</title>" in page(panel)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"free_bytes": GB - 1}, "The disk is full: nothing is accepted."),
        ({"free_bytes": GB}, "less free than its warning threshold"),
        ({"hours_left": 23.5}, "full in less than a day"),
        ({"measured_at": "2024-01-01"}, "upkeep is silent"),
        ({"unreadable": 2}, 'class="bad"'),
        ({"doubt": "others"}, "marked by another installation"),
        ({"doubt": "rewound"}, "older than the directory&#x27;s last sweep"),
        ({"doubt": "unmarked"}, "no file can be written"),
    ],
)
def test_what_is_wrong_is_said(panel: Client, changes: dict[str, Any], words: str) -> None:
    note(**changes)
    assert words in page(panel)


def test_foreign_files_are_named_and_do_no_harm(panel: Client) -> None:
    names = '["<script>alert(1)</script>", "core.1"]'
    note(foreign_count=30, foreign_names=names)
    text = page(panel)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert "and 28 more" in text


def test_an_older_or_newer_nodes_words_do_not_break_the_page(panel: Client) -> None:
    note(kept='{"something new": [1, 5]}', oldest_keeper="something new", growth=None)
    assert "something new" in page(panel)


def test_a_node_that_was_only_measured_or_only_swept_is_shown(panel: Client) -> None:
    note("a", swept_at=None, oldest_at=None, kept="{}")
    note("b", measured_at=None, growth=None, hours_left=None)
    text = page(panel)
    assert "There was none yet." in text
    assert "not known yet" in text


# --- the picture ----------------------------------------------------------------------------------


def told(**changes: Any) -> SpoolNode:
    note(**changes)
    return spool_nodes()[0]


def test_the_forecast_ends_where_the_disk_is_empty(db: None) -> None:
    node = told(free_bytes=36 * 10**8, growth=10**6, hours_left=0.7)
    drawn = disk_chart(node, [HistoryPoint(3600.0, 72 * 10**8)])
    (future,) = re.findall(r'points="([^"]+)" class="future"', drawn)
    assert future.split()[-1] == "520.8,120.0"  # an hour after now, at the foot
    assert "title>1 h ago: 6.7 GB free<" in drawn


def test_without_history_there_is_no_picture_and_without_growth_no_forecast(db: None) -> None:
    node = told(growth=None)
    assert disk_chart(node, []) == ""
    assert "future" not in disk_chart(node, [HistoryPoint(60.0, 1)])


def test_a_state_nobody_measured_warns_of_nothing(db: None) -> None:
    node = told(measured_at=None, free_bytes=0)
    assert node.state is DiskState.OK
    (drawn,) = shown([node], {}, now=datetime.now(UTC))
    assert (drawn["warning"], drawn["is_stale"]) == ("", True)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (10 * GB, "10 GB"), (3 * 2**40, "3 TB")],
)
def test_sizes_are_told_in_their_largest_unit(number: int, text: str) -> None:
    assert octets(number) == text

"""The page: who sees what, what a wrong question is told, and what remains when a store is away."""

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from control.accounts.models import User
from control.reports.forms import LONGEST, Question
from control.reports.selectors import read_report
from control.reports.views import POLICY
from mailcore.events import Event, EventKind
from mailio.stats import ClickhouseStatistics
from mailio.stats.chdb import ChdbDriver
from mailio.stats.driver import Row
from mailio.stats.reports import Reports
from tests.control.conftest import House
from tests.support.happened import happened, some_hours, store
from tests.support.stack import chdb_url

pytestmark = pytest.mark.django_db
PAGE, FRAGMENT = "/panel/reports/", "/panel/reports/fragment"
REPLY = "550 5.1.1 User unknown"


def browser(user: User | None) -> Client:
    client = Client(headers={"host": "localhost"})
    if user is not None:
        client.force_login(user)
    return client


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.status_code
    return str(answer.content.decode())


def rows_of(answer: Any) -> list[list[str]]:
    text = text_of(answer)
    assert answer["Content-Type"].startswith("text/csv")
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))


def campaign(account_id: int, label: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO campaign (account_id, label) VALUES (%s, %s) RETURNING id",
            (account_id, label),
        )
        return int(cursor.fetchone()[0])


def bounces(at: datetime, count: int, **fields: Any) -> Iterator[Event]:
    said = {"reply": REPLY, "reply_normal": REPLY, "code": 550, "bounce_type": "hard"}
    said |= {"bounce_class": "invalid_recipient", "rule": "Unknown user", **fields}
    for n in range(count):
        yield happened(EventKind.BOUNCED, at, 500 + n, **said)


# --- who ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "fragment", "replies.csv", "undeliveries.csv"])
def test_without_a_login_everything_leads_to_it(path: str) -> None:
    answer = browser(None).get(PAGE + path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/panel/login/?next=")


def test_account_users_see_their_account_whatever_they_ask(
    statistics: ClickhouseStatistics, house: House, account_user: User, now: datetime
) -> None:
    own, other = house.account.pk, house.other.pk
    store(statistics, bounces(now, 3, account_id=own, isp="Own-ISP"))
    store(statistics, [happened(EventKind.DELIVERED, now, 1, account_id=other, isp="Other-ISP")])
    for query in ("", f"?account={other}", "?account="):
        text = text_of(browser(account_user).get(PAGE + query))
        assert "Own-ISP" in text
        assert "Other-ISP" not in text
        assert 'name="account"' not in text
    rows = rows_of(browser(account_user).get(f"{PAGE}replies.csv?account={other}"))
    assert [row[-1] for row in rows[1:]] == ["3"]


def test_what_belongs_to_others_is_not_among_the_choices(
    statistics: ClickhouseStatistics, house: House, account_user: User
) -> None:
    own, foreign = campaign(house.account.pk, "mine"), campaign(house.other.pk, "theirs")
    client = browser(account_user)
    text = text_of(client.get(PAGE))
    assert "mine" in text
    assert "theirs" not in text
    assert client.get(f"{PAGE}?campaign={own}").status_code == 200
    refused = client.get(f"{PAGE}?campaign={foreign}")
    assert refused.status_code == 400
    assert "Campaign" in refused.content.decode()


def test_an_admin_sees_all_and_can_look_at_one_account(
    statistics: ClickhouseStatistics, house: House, panel: Client, now: datetime
) -> None:
    delivered = EventKind.DELIVERED
    own, other = house.account.pk, house.other.pk
    store(statistics, [happened(delivered, now, 1, account_id=own, isp="Isp-one", isp_id=1)])
    store(statistics, [happened(delivered, now, 2, account_id=other, isp="Isp-two", isp_id=2)])
    both = text_of(panel.get(PAGE))
    assert "Isp-one" in both
    assert "Isp-two" in both
    one = text_of(panel.get(f"{PAGE}?account={own}"))
    assert "Isp-one" in one
    assert "Isp-two" not in one


# --- what -----------------------------------------------------------------------------------------


def test_the_page_is_whole_without_javascript_and_holds_to_its_policy(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    store(statistics, some_hours(now, hours=0.9, messages=400))
    answer = panel.get(PAGE)
    text = text_of(answer)
    assert answer["Content-Security-Policy"] == POLICY
    assert answer["Cache-Control"] == "no-store"
    assert text.count('class="plot"') == 2
    assert text.count('class="hit"') == 60
    for word in ("By ISP", "Gmail-like", "Greylisted, please try again", "half within"):
        assert word in text
    assert re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", text) == []
    assert "<style" not in text
    assert re.findall(r"\sstyle=|\son[a-z]+=", text) == []
    assert re.findall(r'(?:src|href)="(?:https?:)?//', text) == []


def test_the_fragment_is_what_the_page_shows(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    store(statistics, some_hours(now, hours=0.9, messages=60))
    page, fragment = text_of(panel.get(PAGE)), text_of(panel.get(FRAGMENT))
    parts = re.findall(r'data-part="(\w+)"', fragment)
    assert parts == ["problem", "tiles", "outcomes", "isps", "times", "queue", "replies"]
    assert re.findall(r'data-part="(\w+)"', page) == parts
    assert "<html" not in fragment


def test_figures_of_the_last_hour_and_day_are_shares_of_what_was_decided(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    recent, older = now - timedelta(minutes=5), now - timedelta(hours=5)
    store(statistics, bounces(recent, 1))
    store(statistics, [happened(EventKind.DELIVERED, recent, n) for n in range(1, 4)])
    store(statistics, [happened(EventKind.DELIVERED, older, n) for n in range(11, 27)])
    text = text_of(panel.get(FRAGMENT))
    tiles = re.findall(r'class="figure">([^<]*)</p>', text)
    assert tiles == ["0", "75 %", "25 %", "0 %", "0"]
    assert re.findall(r"in 24 hours <b>([^<]*)</b>", text) == ["0", "95 %", "5 %", "0 %"]


def test_too_many_hard_bounces_are_a_warning(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    store(statistics, bounces(now, 30))
    store(statistics, [happened(EventKind.DELIVERED, now, 5000 + n) for n in range(990)])
    assert "Hard bounces are 2.9 %" in text_of(panel.get(FRAGMENT))


def test_filters_narrow_every_part(
    statistics: ClickhouseStatistics, house: House, panel: Client, now: datetime
) -> None:
    spring = campaign(house.account.pk, "spring")
    about = {"account_id": house.account.pk, "sender_id": house.sender.pk}
    store(statistics, bounces(now, 4, campaign_id=spring, isp="Near", **about))
    store(statistics, [happened(EventKind.DEFERRED, now, 9, isp="Far", reply_normal="451 far")])
    for query in (f"campaign={spring}", f"sender={house.sender.pk}"):
        text = text_of(panel.get(f"{PAGE}?{query}"))
        assert "Near" in text
        assert "Far" not in text
        assert "451 far" not in text
        assert "Clear filters" in text


def test_words_of_servers_are_shown_as_text(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    evil = "550 <script>alert(1)</script>"
    store(statistics, bounces(now, 1, reply_normal=evil, isp="<b>isp</b>"))
    text = text_of(panel.get(FRAGMENT))
    assert "<script>alert" not in text
    assert "<b>isp" not in text
    assert "550 &lt;script&gt;" in text


# --- what is asked --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"since": "yesterday"}, "From (UTC)"),
        ({"since": "2026-01-02T00:00", "until": "2026-01-01T00:00"}, "ends before it begins"),
        ({"since": "2999-01-01T00:00"}, "begins in the future"),
        ({"since": "2020-01-01T00:00"}, f"At most {LONGEST.days} days"),
        ({"since": ""}, "Say where the period begins"),
        ({"isp": "x"}, "ISP"),
        ({"sender": "4711"}, "Sender"),
        ({"period": "year"}, "Period"),
    ],
)
def test_a_wrong_question_names_the_field_and_the_reason(
    panel: Client, query: dict[str, str], said: str
) -> None:
    asked = urlencode({"period": "custom", **query})
    for path in (PAGE, FRAGMENT, f"{PAGE}replies.csv"):
        answer = panel.get(f"{path}?{asked}")
        assert answer.status_code == 400
    page = panel.get(f"{PAGE}?{asked}").content.decode()
    assert said in re.sub(r"<[^>]+>", "", page[page.index('role="alert"') :])


def test_a_period_of_ones_own_shows_that_period(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    store(statistics, [happened(EventKind.DELIVERED, now - timedelta(days=3), 1, isp="Then")])
    store(statistics, [happened(EventKind.DELIVERED, now, 2, isp="Now", isp_id=9)])
    ends = {"since": now - timedelta(days=4), "until": now - timedelta(days=2)}
    query = urlencode({"period": "custom"} | {k: f"{v:%Y-%m-%dT%H:%M}" for k, v in ends.items()})
    text = text_of(panel.get(f"{PAGE}?{query}"))
    assert "Then" in text
    assert '<span class="name">Now</span>' not in text


def test_choosing_a_period_of_ones_own_begins_with_the_last_day(
    statistics: ClickhouseStatistics, panel: Client
) -> None:
    text = text_of(panel.get(f"{PAGE}?period=custom"))
    assert 'name="since" value="20' in text


# --- what is missing ------------------------------------------------------------------------------


def test_nothing_happened_is_said_with_what_to_do(
    statistics: ClickhouseStatistics, panel: Client
) -> None:
    text = text_of(panel.get(PAGE))
    assert "Nothing happened in this period." in text
    assert "POST /api/v2/messages" in text
    assert "Nothing waits." in text
    assert 'class="plot"' not in text


def test_statistics_away_are_named_and_the_queue_is_shown(
    away: None, house: House, panel: Client, account_user: User
) -> None:
    text = text_of(panel.get(PAGE))
    assert "The statistics do not answer." in text
    assert "nobody" in text  # the address, for those who can mend it
    assert "Nothing waits." in text
    own = text_of(browser(account_user).get(PAGE))
    assert "The statistics do not answer." in own
    assert "nobody" not in own
    assert panel.get(f"{PAGE}replies.csv").status_code == 503


# --- exports --------------------------------------------------------------------------------------


def test_undeliveries_are_grouped_by_from_domain_or_by_sending_ip(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    events = [*bounces(now, 2), *bounces(now, 5, source_ip="192.0.2.9")][:2]
    events += list(bounces(now, 5, source_ip="192.0.2.9"))[2:]
    store(statistics, events)
    store(statistics, events)  # a repeat changes no count
    by_domain = rows_of(panel.get(f"{PAGE}undeliveries.csv"))
    assert by_domain == [
        ["Group by", "To domain", "Bounce text", "Amount"],
        ["acme.test", "receiver.test", REPLY, "5"],
    ]
    by_ip = rows_of(panel.get(f"{PAGE}undeliveries.csv?group=source_ip"))
    assert [(row[0], row[3]) for row in by_ip[1:]] == [("192.0.2.9", "3"), ("192.0.2.1", "2")]
    assert panel.get(f"{PAGE}undeliveries.csv?group=isp").status_code == 400


def test_a_reply_that_looks_like_a_formula_stays_a_text(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    store(statistics, bounces(now, 1, reply_normal="=HYPERLINK(1)"))
    (row,) = rows_of(panel.get(f"{PAGE}replies.csv"))[1:]
    assert row[-2:] == ["'=HYPERLINK(1)", "1"]


# --- what it costs --------------------------------------------------------------------------------


class Counting(ChdbDriver):
    """A driver that keeps what it was asked."""

    asked: list[str]

    def query(self, sql: str) -> list[Row]:
        self.asked.append(sql)
        return super().query(sql)


def test_a_page_asks_statistics_six_times_each_time_within_bounds(now: datetime) -> None:
    driver = Counting(chdb_url())
    driver.asked = []
    ClickhouseStatistics(driver).migrate()
    driver.asked.clear()
    until = now.astimezone(UTC)
    question = Question(until - LONGEST, until, timedelta(days=1), account_id=1, isp_id=0)
    assert read_report(lambda: Reports(driver), question, now=now).problem == ""
    driver.close()
    assert len(driver.asked) == 6
    for sql in driver.asked:
        assert "minute >= " in sql
        assert "minute < " in sql
        assert "account_id = 1" in sql
        assert sql.rstrip().endswith("SETTINGS max_execution_time = 10")


def test_a_refresh_costs_a_known_number_of_queries_of_postgresql(
    statistics: ClickhouseStatistics,
    panel: Client,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    with django_assert_max_num_queries(12):
        answer = panel.get(FRAGMENT)
    assert answer.status_code == 200

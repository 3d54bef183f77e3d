"""The page of TLS, and the report of one domain's day."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from control.accounts.models import User
from mailcore.events import Event, EventKind
from mailio.stats import ClickhouseStatistics
from tests.control.conftest import House
from tests.support.happened import happened, store

pytestmark = pytest.mark.django_db
PAGE, REPORT = "/panel/reports/tls", "/panel/reports/tls.json"
TLS = {"tls_version": "TLSv1.3", "tls_cipher": "TLS_AES_256_GCM_SHA384"}


def told(now: datetime, first: int, count: int, **fields: Any) -> Iterator[Event]:
    """Events of so many messages, each told twice."""
    kind = EventKind.DEFERRED if fields.get("tls_result") else EventKind.DELIVERED
    others = {"account_id": 99}  # which no house has
    values = {"mx_host": "mx.receiver.test", "tls_policy": "sts", **others, **fields}
    for number in [*range(first, first + count)] * 2:
        yield happened(kind, now, number, **values)


def browser(user: User) -> Client:
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return client


def text_of(client: Client, query: str = "") -> str:
    answer = client.get(f"{PAGE}{query}")
    assert answer.status_code == 200
    return str(answer.content.decode())


@pytest.fixture
def mail(statistics: ClickhouseStatistics, house: House, now: datetime) -> None:
    failed = {"tls_result": "certificate-expired", **TLS}
    events = [
        *told(now, 1, 5, **TLS),
        *told(now, 11, 3, tls_result="certificate-host-mismatch"),
        *told(now, 21, 2, tls_policy="no-policy-found", **failed),
        *told(now, 31, 4, tls_policy="operator", account_id=house.account.pk, **TLS),
        *told(now, 41, 1, tls_policy="", recipient_domain="quiet.test"),
        *told(now, 51, 7, recipient_domain="other.test", tls_result="validation-failure"),
        *told(now, 61, 6, tls_policy="operator", site="relay:out.test:587/1", mx_host="out.test"),
    ]
    store(statistics, events)


def test_the_page_counts_what_went_well_and_names_what_failed(mail: None, panel: Client) -> None:
    text = text_of(panel)
    assert "certificate-host-mismatch" in text
    assert "encrypted, nothing failed <b>9</b>" in text
    assert "encrypted after a failure <b>2</b>" in text
    assert "in clear, or not sent <b>10</b>" in text
    assert text.index("other.test") < text.index("certificate-host-mismatch")
    assert "quiet.test" not in text
    assert 'class="plot"' in text


def test_the_menu_of_every_page_leads_to_it(panel: Client) -> None:
    menu = panel.get("/panel/senders/sender/").content.decode()
    assert f'href="{PAGE}"' in menu


def test_account_users_see_their_own_and_no_report_of_all(
    mail: None, account_user: User, panel: Client
) -> None:
    own = browser(account_user)
    text = text_of(own)
    assert "certificate-host-mismatch" not in text
    assert "Nothing." in text
    assert own.get(f"{REPORT}?domain=receiver.test").status_code == 403
    assert Client(headers={"host": "localhost"}).get(PAGE).status_code == 302


def test_a_report_has_the_form_that_receivers_know(
    mail: None, panel: Client, now: datetime
) -> None:
    lines = ["version: STSv1", "mode: enforce", "mx: *.receiver.test", "max_age: 86400"]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sts_policy (domain, policy_id, mode, body, max_age_s, expires_ms)"
            " VALUES ('receiver.test', '1', 'enforce', %s, 86400, 1)",
            ["\r\n".join(lines)],
        )
    answer = panel.get(f"{REPORT}?domain=Receiver.test&day={now:%Y-%m-%d}")
    assert answer.status_code == 200
    report = answer.json()
    assert report["date-range"]["start-datetime"] == f"{now:%Y-%m-%d}T00:00:00Z"
    assert [one["policy"]["policy-type"] for one in report["policies"]] == [
        "no-policy-found",
        "sts",
    ]
    unpoliced, sts = report["policies"]
    assert unpoliced["summary"] == {
        "total-successful-session-count": 4,
        "total-failure-session-count": 2,
    }
    assert sts["policy"]["mx-host"] == ["*.receiver.test"]
    assert sts["policy"]["policy-string"] == lines
    assert "out.test" not in answer.content.decode()
    assert sts["failure-details"] == [
        {
            "result-type": "certificate-host-mismatch",
            "sending-mta-ip": "192.0.2.1",
            "receiving-mx-hostname": "mx.receiver.test",
            "failed-session-count": 3,
        }
    ]


def test_the_link_of_a_whole_day_leads_to_that_day(
    statistics: ClickhouseStatistics, panel: Client, now: datetime
) -> None:
    day = now - timedelta(days=1)
    store(statistics, told(day, 1, 1, tls_result="certificate-expired"))
    period = f"?period=custom&since={day:%Y-%m-%d}T00:00&until={now:%Y-%m-%d}T00:00"
    text = text_of(panel, period)
    assert f"day={day:%Y-%m-%d}" in text
    assert f"day={now:%Y-%m-%d}" not in text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{REPORT}?domain=", "domain:"),
        (f"{REPORT}?domain=a b", "domain:"),
        (f"{REPORT}?domain=a.test&day=today", "day:"),
        (f"{PAGE}?period=year", "Period"),
    ],
)
def test_a_wrong_question_names_the_field(path: str, said: str, panel: Client) -> None:
    answer = panel.get(path)
    assert answer.status_code == 400
    assert said in answer.content.decode()


def test_statistics_away_are_named(away: None, panel: Client) -> None:
    assert "The statistics do not answer." in text_of(panel)
    assert panel.get(f"{REPORT}?domain=a.test").status_code == 503

"""Alerts: raised once, told once, over once; and what is not known is not over."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from control.accounts.models import Account
from control.jobs import services as jobs
from control.notify import alerts, post
from control.notify.choices import AlertKind, AlertState, NoticeKind
from control.notify.decide import Reading
from control.notify.models import Alert, AlertRule, Notice, SystemMail
from control.notify.readings import PROBES
from control.notify.selectors import open_alerts
from mailcore.events import Event, EventKind
from mailcore.ports import StoreUnavailable
from mailio.stats import ClickhouseStatistics
from tests.control.conftest import SYSTEM, House
from tests.control.pages import page
from tests.support.happened import happened, store
from tests.support.relay import Taken

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Watcher:
    """Looks at one thing whose readings a test says."""

    def __init__(self, kind: AlertKind) -> None:
        self.kind = kind
        self.readings: Sequence[Reading] = ()
        self.is_away = False

    def probe(self, _rule: AlertRule, _now: datetime) -> Sequence[Reading]:
        if self.is_away:
            raise StoreUnavailable("clickhouse", "connection refused")
        return self.readings

    def look(self, *readings: Reading, at: timedelta = timedelta()) -> None:
        self.readings = readings
        alerts.look(now=NOW + at, probes={self.kind: self.probe})


def told() -> list[tuple[str, str]]:
    return list(Notice.objects.order_by("id").values_list("kind", "recipient"))


def silent(value: float) -> Reading:
    return Reading("node:n1", "n1", value)


def test_an_alert_is_told_once_when_raised_and_once_when_over(relay: Taken) -> None:
    watcher = Watcher(AlertKind.NODE_SILENT)
    for minute in range(3):
        watcher.look(silent(300.0), at=timedelta(minutes=minute))
    assert told() == [(NoticeKind.RAISED, "ops@example.com")]
    alert = Alert.objects.get()
    assert (alert.state, alert.about, alert.value) == (AlertState.RAISED, "n1", 300.0)
    assert alert.since == NOW - timedelta(seconds=300)
    for minute in range(3, 5):
        watcher.look(silent(1.0), at=timedelta(minutes=minute))
    assert told()[1:] == [(NoticeKind.CLEARED, "ops@example.com")]
    alert.refresh_from_db()
    assert (alert.state, alert.cleared_at) == (AlertState.CLEARED, NOW + timedelta(minutes=3))


def test_an_alert_that_comes_back_is_a_new_one(relay: Taken) -> None:
    watcher = Watcher(AlertKind.NODE_SILENT)
    watcher.look(silent(300.0))
    watcher.look(at=timedelta(minutes=1))
    watcher.look(silent(300.0), at=timedelta(minutes=2))
    states = Alert.objects.order_by("id").values_list("state", flat=True)
    assert list(states) == [AlertState.CLEARED, AlertState.RAISED]
    assert [kind for kind, _to in told()] == ["raised", "cleared", "raised"]


def test_an_open_alert_is_told_again_after_the_time_that_is_set(relay: Taken) -> None:
    watcher = Watcher(AlertKind.NODE_SILENT)
    SystemMail.objects.update(remind_after_s=3600.0)
    for hour in (0.0, 0.9, 1.0, 1.5, 2.0):
        watcher.look(silent(9e3), at=timedelta(hours=hour))
    assert [kind for kind, _to in told()] == ["raised", "reminder", "reminder"]
    assert Alert.objects.get().reminders == 2


def test_what_cannot_be_known_ends_no_alert_and_is_said_at_its_rule(
    relay: Taken, panel: Client
) -> None:
    watcher = Watcher(AlertKind.COMPLAINTS)
    watcher.look(Reading("account:1", "Acme", 5.0))
    watcher.is_away = True
    watcher.look(at=timedelta(minutes=1))
    assert Alert.objects.get().state == AlertState.RAISED
    assert "connection refused" in AlertRule.objects.get(kind=AlertKind.COMPLAINTS).problem
    assert "connection refused" in panel.get(page(AlertRule)).content.decode()
    watcher.is_away = False
    watcher.look(at=timedelta(minutes=2))
    assert Alert.objects.get().state == AlertState.CLEARED
    assert AlertRule.objects.get(kind=AlertKind.COMPLAINTS).problem == ""


def test_a_rule_that_is_switched_off_ends_its_alerts_and_raises_none(relay: Taken) -> None:
    watcher = Watcher(AlertKind.NODE_SILENT)
    watcher.look(silent(300.0))
    AlertRule.objects.filter(kind=AlertKind.NODE_SILENT).update(is_active=False)
    watcher.look(silent(300.0), at=timedelta(minutes=1))
    watcher.look(silent(300.0), at=timedelta(minutes=2))
    assert [alert.state for alert in Alert.objects.all()] == [AlertState.CLEARED]


def test_an_account_is_told_of_its_own_alerts_if_it_wants_them(relay: Taken, house: House) -> None:
    watcher = Watcher(AlertKind.HARD_BOUNCES)
    bad = Reading(f"account:{house.account.pk}", "Acme", 9.0, "9 of 100", house.account.pk)
    accounts = Account.objects.filter(pk=house.account.pk)
    watcher.look(bad)
    watcher.look(at=timedelta(minutes=1))
    assert told() == []  # nobody to tell: it has no address for alerts
    accounts.update(alert_email="postmaster@acme.test", alerts_hard_bounces=False)
    watcher.look(bad, at=timedelta(minutes=2))
    watcher.look(at=timedelta(minutes=3))
    assert told() == []
    accounts.update(alerts_hard_bounces=True)
    watcher.look(bad, at=timedelta(minutes=4))
    assert told() == [("raised", "postmaster@acme.test")]


def test_alerts_go_to_every_administrator_when_no_address_is_named(
    relay: Taken, house: House, panel: Client, master: Any, ordinary: Any
) -> None:
    SystemMail.objects.update(alert_to=[])
    for user, address in ((master, "m@example.com"), (ordinary, "o@example.com")):
        user.email = address
        user.save()
    Watcher(AlertKind.NODE_SILENT).look(silent(300.0))
    assert [to for _kind, to in told()] == ["m@example.com", "o@example.com"]


def test_every_page_names_the_open_alerts(relay: Taken, panel: Client) -> None:
    watcher = Watcher(AlertKind.NODE_SILENT)
    assert "open alert" not in panel.get("/panel/").content.decode()
    watcher.look(*(Reading(f"node:n{n}", f"n{n}", 300.0) for n in range(5)))
    text = panel.get(page(AlertRule)).content.decode()
    assert "5 open alerts" in text
    assert "a node is silent: n4" in text
    assert "No process of node n4 reports." in panel.get(page(Alert)).content.decode()


def test_a_thousand_alerts_of_one_look_are_one_mail_and_three_rows_of_the_page(
    relay: Taken, panel: Client
) -> None:
    watcher = Watcher(AlertKind.MAIL_STUCK)
    isps = [Reading(f"isp:{n}", f"provider {n:04}", 9e3) for n in range(1000)]
    watcher.look(*isps)
    assert told() == [(NoticeKind.RAISED, "ops@example.com")]
    post.send_due()
    (message,) = relay.messages
    assert message["Subject"].endswith("provider 0000 and 999 more")
    text = message.get_body(("plain",))
    assert text is not None
    lines = text.get_content().splitlines()
    assert [line for line in lines if line.startswith("provider ")] == [
        f"provider {n:04}" for n in range(1, 21)
    ]
    assert "and 979 more, in the panel" in lines
    watcher.look(*isps[:1], at=timedelta(hours=13))
    assert [kind for kind, _to in told()[1:]] == [NoticeKind.REMINDER, NoticeKind.CLEARED]

    Alert.objects.update(state=AlertState.RAISED, cleared_at=None)
    with CaptureQueriesContext(connection) as asked:
        found = open_alerts()
    assert (found.count, len(found.newest)) == (1000, 3)
    assert len(asked) == 1
    assert "LIMIT 3" in asked[0]["sql"]


def test_of_several_accounts_each_is_told_of_its_own_alone(relay: Taken, house: House) -> None:
    for account in (house.account, house.other):
        Account.objects.filter(pk=account.pk).update(
            alert_email=f"{account.login_name}@example.com", alerts_complaints=True
        )
    accounts = (house.account, house.other)
    bad = [Reading(f"account:{one.pk}", one.title, 9.0, "", one.pk) for one in accounts]
    Watcher(AlertKind.COMPLAINTS).look(*bad)
    assert {to for _kind, to in told()} == {f"{one.login_name}@example.com" for one in accounts}
    post.send_due()
    for message in relay.messages:
        assert "more" not in message["Subject"]
        titles = {one.title for one in accounts if one.title in message.as_string()}
        assert len(titles) == 1


def test_without_a_way_to_send_alerts_are_raised_and_no_mail_is_owed(rows: SystemMail) -> None:
    Watcher(AlertKind.NODE_SILENT).look(silent(300.0))
    assert Alert.objects.get().state == AlertState.RAISED
    assert told() == []


# --- what is watched ------------------------------------------------------------------------------


def reading_of(kind: AlertKind, now: datetime | None = None) -> Sequence[Reading]:
    return PROBES[kind](AlertRule.objects.get(kind=kind), now or datetime.now(UTC))


def run(sql: str, *params: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)  # type: ignore[arg-type]


def test_a_node_that_reports_is_not_silent_and_one_that_never_did_is(rows: SystemMail) -> None:
    run("UPDATE nodes_node SET created_at = now() - interval '10 minutes'")
    (found,) = reading_of(AlertKind.NODE_SILENT)
    assert found.value is not None
    assert found.value >= 600
    run("INSERT INTO policy_ack (node, process, revision) VALUES ('node1', 'p', 1)")
    (found,) = reading_of(AlertKind.NODE_SILENT)
    assert found.value is not None
    assert found.value < 60


def test_a_node_with_an_old_policy_is_not_synced(rows: SystemMail) -> None:
    run("INSERT INTO policy_ack (node, process, revision) VALUES ('node1', 'p', 0)")
    assert [(one.about, one.value) for one in reading_of(AlertKind.NOT_SYNCED)] == [("node1", None)]


def stuck_row(sender_id: int) -> None:
    run(
        "INSERT INTO ledger_lane (sender_id, account_id, campaign_id, isp_id, mail_class, site,"
        " tls_need, waiting) VALUES (%s, 1, 0, 0, 1, 'mx.test', 0, 1)",
        sender_id,
    )
    run(
        "INSERT INTO ledger_row (lane_id, state, recipient_no, due_at, expires_at, message_id,"
        " content_segment, content_offset, content_length, content_crc, recipient, reverse_path,"
        " header_from, message_id_header, custom, reason)"
        " SELECT max(id), 0, 0, now() - interval '1 hour', now() + interval '1 hour', %s, 1, 0, 1,"
        " 0, 'a@x.test', 'b@acme.test', 'acme.test', '<a@b>', '', 'retry' FROM ledger_lane",
        str(uuid.uuid4()),
    )


def test_mail_that_is_due_for_long_is_stuck_unless_it_is_held(
    rows: SystemMail, house: House
) -> None:
    assert reading_of(AlertKind.MAIL_STUCK) == []
    stuck_row(house.sender.pk)
    (found,) = reading_of(AlertKind.MAIL_STUCK)
    assert found.value is not None
    assert found.value >= 3600
    run(
        "INSERT INTO queue_hold (scope, target_id, reason, author, placed_at)"
        " VALUES ('pool', %s, 'moving', 'ann', now() - interval '4 days')",
        house.pool.pk,
    )
    assert reading_of(AlertKind.MAIL_STUCK) == []
    (hold,) = reading_of(AlertKind.HOLD_FORGOTTEN)
    assert (hold.about, hold.detail) == (f"pool {house.pool.pk}", "moving (ann)")
    assert hold.value is not None
    assert hold.value >= 4 * 86400


def test_events_that_are_not_applied_and_those_set_aside_are_seen(rows: SystemMail) -> None:
    assert {one.value for one in reading_of(AlertKind.OUTBOX_LAG)} == {0.0}
    run(
        "INSERT INTO ledger_outbox (created_at, event_count, body)"
        " VALUES (now() - interval '10 minutes', 7, '')"
    )
    lags = reading_of(AlertKind.OUTBOX_LAG)
    assert {one.about for one in lags} == {"statistics", "stop_list", "dsn"}
    assert all(one.value is not None and one.value >= 600 for one in lags)
    run(
        "INSERT INTO ledger_outbox_refused (consumer, xid, row_id, event_count, reason, body)"
        " VALUES ('statistics', '7', 1, 1, 'no such kind', '')"
    )
    (refused,) = reading_of(AlertKind.EVENTS_REFUSED)
    assert (refused.about, refused.value, refused.detail) == ("statistics", 1.0, "no such kind")


def test_a_disk_that_will_be_full_within_a_day_is_told_before_it_is(relay: Taken) -> None:
    run(
        "INSERT INTO spool_node (node, measured_at, hours_left, free_bytes) VALUES"
        " ('n1', now(), 23, 10737418240), ('n2', now(), 25, 1), ('n3', now(), NULL, 1),"
        " ('n4', now() - interval '1 hour', 1, 1)"
    )
    alerts.look(probes={AlertKind.DISK: PROBES[AlertKind.DISK]})
    found = Alert.objects.values_list("about", "detail")
    assert list(found) == [("n1", "10 GB free")]
    post.send_due()
    text = relay.messages[0].get_body(("plain",))
    assert text is not None
    lines = text.get_content().splitlines()
    assert {"Figure:    23 hours", "Threshold: 1 day"} <= set(lines)


def test_a_job_that_failed_is_told_with_its_reason_and_a_link(relay: Taken) -> None:
    job = jobs.start(kind="t", title="Purge acme", actor=SYSTEM)
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    jobs.fail(claimed, "no such column")
    alerts.look(probes={AlertKind.JOB_FAILED: PROBES[AlertKind.JOB_FAILED]})
    alert = Alert.objects.get()
    assert (alert.about, alert.detail) == ("Purge acme", "no such column")
    assert told() == [("raised", "ops@example.com")]


def test_rates_count_from_the_least_volume_on(
    rows: SystemMail, house: House, statistics: ClickhouseStatistics
) -> None:
    AlertRule.objects.update(least_volume=20)
    store(statistics, outcomes(house.account.pk, datetime.now(UTC) - timedelta(minutes=2)))
    (hard,) = reading_of(AlertKind.HARD_BOUNCES)
    assert (hard.about, hard.value, hard.detail) == ("Acme", 15.0, "3 of 20")
    (soft,) = reading_of(AlertKind.SOFT_BOUNCES)
    assert (soft.value, soft.detail) == (5.0, "1 of 20")
    assert reading_of(AlertKind.COMPLAINTS) == []  # of 16 delivered
    AlertRule.objects.update(least_volume=16)
    (complaints,) = reading_of(AlertKind.COMPLAINTS)
    assert complaints.value == 12.5


def test_an_open_rate_is_not_over_because_a_little_less_was_sent(
    relay: Taken, house: House, statistics: ClickhouseStatistics
) -> None:
    store(statistics, outcomes(house.account.pk, datetime.now(UTC) - timedelta(minutes=2)))
    probes = {AlertKind.HARD_BOUNCES: PROBES[AlertKind.HARD_BOUNCES]}
    states = []
    for least in (20, 24, 26):
        AlertRule.objects.update(least_volume=least)
        alerts.look(probes=probes)
        states.append(Alert.objects.get().state)
    assert states == [AlertState.RAISED, AlertState.RAISED, AlertState.CLEARED]


def test_with_statistics_away_rates_are_not_known_and_all_else_is(relay: Taken, away: None) -> None:
    alerts.look()
    unknown = set(AlertRule.objects.exclude(problem="").values_list("kind", flat=True))
    assert unknown == {AlertKind.HARD_BOUNCES, AlertKind.SOFT_BOUNCES, AlertKind.COMPLAINTS}
    assert not AlertRule.objects.filter(checked_at=None).exists()


def outcomes(account_id: int, at: datetime) -> list[Event]:
    """Sixteen delivered, three hard bounces, a soft one, and two complaints."""
    kinds = [(EventKind.DELIVERED, "")] * 16 + [(EventKind.BOUNCED, "hard")] * 3
    kinds += [(EventKind.BOUNCED, "soft")] + [(EventKind.COMPLAINED, "")] * 2
    return [
        happened(kind, at, number, account_id=account_id, bounce_type=bounce_type)
        for number, (kind, bounce_type) in enumerate(kinds)
    ]

"""System mail leaves by a relay or on our own path, once; what does not leave is kept and said."""

from __future__ import annotations

import ssl
from datetime import timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from django.conf import settings
from django.contrib.messages import get_messages
from django.db import connection
from django.db.models import F
from django.test import Client
from django.utils import timezone

from control.accounts.models import User
from control.audit.models import AuditEntry
from control.notify import post, services
from control.notify.choices import AlertKind, NoticeKind, NoticeState
from control.notify.models import Alert, AlertRule, Notice, SystemMail
from control.notify.readings import PROBES
from control.secrets import get_secret
from lab.certificate import server_context
from mailcore.events import recipient_hash
from tests.control.notify.conftest import Api, set_up
from tests.control.pages import errors, page, send
from tests.control.test_secrets import dump, everything_shown
from tests.support.relay import Taken, taking

pytestmark = pytest.mark.django_db
PASSWORD = "open sesame"


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return server_context(("127.0.0.1",), tmp_path)


def owe_test() -> Notice:
    notice = services.owe(NoticeKind.TEST, "ann@example.com", key="test")
    assert notice is not None
    return notice


def due_now() -> None:
    Notice.objects.update(due_at=timezone.now())


def state() -> Notice:
    return Notice.objects.get()


# --- the relay ------------------------------------------------------------------------------------


def test_a_message_by_the_relay_is_from_whom_the_row_says_to_one_and_marked_as_a_machine_s(
    relay: Taken,
) -> None:
    SystemMail.objects.update(display_name="Müller & Co", relay_helo="mail.example.com")
    owe_test()
    assert post.send_due() == 1
    (message,) = relay.messages
    assert message["From"].addresses[0].addr_spec == "postfleet@acme.test"
    assert message["From"].addresses[0].display_name == "Müller & Co"
    assert message["To"] == "ann@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert relay.envelopes == [("postfleet@acme.test", ["ann@example.com"])]
    assert relay.helos == ["mail.example.com"]
    kinds = [part.get_content_type() for part in message.walk()]
    assert kinds == ["multipart/alternative", "text/plain", "text/html"]
    assert (state().state, state().way) == (NoticeState.SENT, f"127.0.0.1:{relay.port}")
    assert post.send_due() == 0


def test_a_password_goes_under_tls_alone_and_lies_nowhere_in_clear(
    rows: SystemMail, panel: Client, tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    with taking(tls_context=tls, require_starttls=True, auth_required=True) as relay:
        answer = send(
            panel,
            page(SystemMail, f"{rows.pk}/change/"),
            email="postfleet@example.com",
            relay_host="127.0.0.1",
            relay_port=str(relay.port),
            relay_login="ann",
            new_password=PASSWORD,
        )
        assert answer.status_code == 302
        owe_test()
        assert post.send_due() == 0
        assert "certificate" in state().error
        assert relay.logins == []
        SystemMail.objects.update(is_insecure=True)
        due_now()
        assert post.send_due() == 1
    assert relay.logins == [("ann", PASSWORD)]
    assert relay.with_tls == [True]
    assert get_secret(rows.secret_ref) == PASSWORD.encode()
    assert AuditEntry.objects.filter(object_type="notify.systemmail").count() >= 2
    assert PASSWORD not in dump() + everything_shown(panel) + caplog.text


def test_a_relay_that_offers_no_tls_gets_nothing_until_that_is_allowed(
    rows: SystemMail, relay: Taken
) -> None:
    SystemMail.objects.update(without_tls=False)
    owe_test()
    assert post.send_due() == 0
    assert "STARTTLS" in state().error
    assert "without TLS" in state().error
    assert relay.contents == []


def test_a_relay_that_is_away_is_tried_again_later_and_later_and_given_up_after_a_day(
    rows: SystemMail, panel: Client
) -> None:
    with taking() as gone:
        port = gone.port
    set_up(rows, relay_host="127.0.0.1", relay_port=port, without_tls=True)
    owe_test()
    waits = []
    for _try in range(4):
        due_now()
        began = timezone.now()
        assert post.send_due() == 0
        waits.append(round((state().due_at - began).total_seconds()))
    assert waits == [10, 20, 40, 80]
    assert state().state == NoticeState.WAITING
    assert "refused" in state().error.lower()
    assert "refused" in panel.get(page(SystemMail)).content.decode().lower()
    long_ago = timezone.now() - timedelta(days=1, seconds=1)
    Notice.objects.update(due_at=timezone.now(), created_at=long_ago)
    post.send_due()
    assert state().state == NoticeState.FAILED

    again = {"action": "try_again", "_selected_action": [str(state().pk)]}
    panel.post(page(Notice), again)
    assert (state().state, state().tries) == (NoticeState.WAITING, 0)


def test_a_recipient_whom_the_relay_will_never_take_is_given_up_at_once(
    rows: SystemMail,
) -> None:
    with taking(refusal="550 5.1.1 no such user") as relay:
        set_up(rows, relay_host="127.0.0.1", relay_port=relay.port, without_tls=True)
        owe_test()
        assert post.send_due() == 0
    assert state().state == NoticeState.FAILED
    assert "550 5.1.1 no such user" in state().error


def test_a_relay_that_refuses_us_is_asked_again_once_people_have_mended_it(
    rows: SystemMail,
) -> None:
    with taking(refusal="554 5.7.1 relay access denied") as relay:
        set_up(rows, relay_host="127.0.0.1", relay_port=relay.port, without_tls=True)
        owe_test()
        assert post.send_due() == 0
        assert state().state == NoticeState.WAITING
        assert "554 5.7.1 relay access denied" in state().error
        relay.refusal = ""
        due_now()
        assert post.send_due() == 1


def test_in_the_lab_no_relay_elsewhere_is_spoken_to(rows: SystemMail) -> None:
    assert settings.POSTFLEET is not None
    assert settings.POSTFLEET.is_lab
    set_up(rows, relay_host="192.0.2.25")
    owe_test()
    assert post.send_due() == 0
    assert "in the lab nothing leaves" in state().error


def test_while_one_process_sends_the_others_have_time_for_other_work(
    relay: Taken, database_url: str
) -> None:
    owe_test()
    other = psycopg2.connect(database_url)
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (post.SEND_LOCK,))
            assert post.send_due() == 0
            cursor.execute("SELECT pg_advisory_unlock(%s)", (post.SEND_LOCK,))
    finally:
        other.close()
    due_now()
    assert post.send_due() == 1


def test_who_waits_for_a_link_does_not_wait_behind_a_thousand_alerts(relay: Taken) -> None:
    for number in range(post.AT_ONCE + 1):
        services.owe(NoticeKind.TEST, "ops@example.com", key=f"alert:{number}")
    user = User.objects.create_user("ann", email="ann@example.com")
    services.ask_for_password("ann")
    post.send_due(turn_s=0)
    assert relay.envelopes == [("postfleet@acme.test", [user.email])]


def test_a_password_sealed_with_a_key_that_is_gone_is_said_and_stops_nothing(
    relay: Taken, rows: SystemMail
) -> None:
    SystemMail.objects.update(relay_login="ann")
    services.store_password(rows, PASSWORD)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE vault_secret SET value = replace(value, ':1:', ':9:')")
    owe_test()
    assert post.send_due() == 0
    assert "password cannot be opened" in state().error


# --- our own path ---------------------------------------------------------------------------------


def own_path(rows: SystemMail, api: Api) -> SystemMail:
    rows.account = api.house.account
    rows.account.refresh_from_db()
    return set_up(rows, account=rows.account)


def test_on_our_own_path_a_message_is_priority_mail_of_the_campaign_system_and_goes_once(
    api: Api, rows: SystemMail
) -> None:
    own_path(rows, api)
    owe_test()
    assert post.send_due() == 1
    # As if the process had died before it could note that the message was taken.
    Notice.objects.update(state=NoticeState.WAITING, due_at=timezone.now())
    assert post.send_due() == 1
    taken = api.query(
        "SELECT r.recipient, r.reverse_path, l.mail_class, c.label, r.message_id::text"
        " FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id"
        " JOIN campaign c ON c.id = l.campaign_id"
    )
    assert [row[:4] for row in taken] == [("ann@example.com", "postfleet@acme.test", 0, "system")]
    assert state().message_id == taken[0][4]
    (content,) = api.contents()
    assert content is not None
    assert b"Auto-Submitted: auto-generated\r\n" in content
    assert b"multipart/alternative" in content


def test_what_a_hostile_server_said_keeps_no_alert_from_leaving(api: Api, rows: SystemMail) -> None:
    own_path(rows, api)
    said = "-ERR \x1b[31m\x07\x85 no\r\nBcc: eve@example.com\r\n\r\n<script>"
    alert = Alert.objects.create(
        kind=AlertKind.MAILBOX,
        subject="mailbox:1",
        about=said,
        detail=said,
        threshold=1.0,
        since=timezone.now(),
        seen_at=timezone.now(),
    )
    services.owe(NoticeKind.RAISED, "ops@example.com", key="a", alert=alert)
    assert (post.send_due(), state().error) == (1, "")
    (content,) = api.contents()
    assert content is not None
    message = message_from_bytes(content, policy=policy.default)
    assert message["Bcc"] is None
    assert message["Subject"].endswith("-ERR \ufffd[31m\ufffd no Bcc: eve@example.com <script>")
    html = message.get_body(("html",))
    assert html is not None
    assert "<script>" not in html.get_content()


def test_what_the_front_door_refuses_is_said_with_the_field_and_tried_again(
    api: Api, rows: SystemMail
) -> None:
    own_path(rows, api)
    SystemMail.objects.update(email="postfleet@elsewhere.test")
    owe_test()
    assert post.send_due() == 0
    assert "elsewhere.test is no sending domain of the account" in state().error
    assert state().state == NoticeState.WAITING


def test_a_stopped_recipient_is_given_up_with_the_reason(api: Api, rows: SystemMail) -> None:
    own_path(rows, api)
    api.query(
        "INSERT INTO stop_entry (recipient_hash, recipient, reason, detail)"
        " VALUES (%s, 'ann@example.com', 'hard_bounce', '550 gone')",
        recipient_hash("ann@example.com"),
    )
    owe_test()
    assert post.send_due() == 0
    assert state().state == NoticeState.FAILED
    assert state().error == "ann@example.com is on a stop list: hard_bounce"

    api.query("DELETE FROM stop_entry")
    services.try_again(Notice.objects.all())
    Notice.objects.update(created_at=F("created_at") + timedelta(seconds=1))
    assert post.send_due() == 1


# --- the page -------------------------------------------------------------------------------------


def said(answer: Any) -> str:
    return " ".join(str(one) for one in get_messages(answer.wsgi_request))


def press_test(panel: Client, row: SystemMail) -> str:
    action = {"action": "send_test", "_selected_action": [str(row.pk)]}
    return said(panel.post(page(SystemMail), action))


def test_the_test_message_says_what_happened(rows: SystemMail, panel: Client, master: Any) -> None:
    assert "Nobody to send to" in press_test(panel, rows)
    master.email = "m@example.com"
    master.save()
    assert "no sender address" in press_test(panel, rows)
    with taking() as relay:
        set_up(rows, relay_host="127.0.0.1", relay_port=relay.port, without_tls=True)
        assert f"127.0.0.1:{relay.port} has taken" in press_test(panel, rows)
    assert relay.envelopes[0][1] == ["m@example.com"]
    assert "did not leave" in press_test(panel, rows)
    assert PROBES[AlertKind.SYSTEM_MAIL](AlertRule.objects.all()[0], timezone.now()) == []


def test_a_test_message_is_sent_by_the_page_alone_and_once(
    relay: Taken, rows: SystemMail, panel: Client, master: Any
) -> None:
    notice = services.test_message("ann@example.com")
    assert notice is not None
    assert post.send_due() == 0
    with taking() as gone:
        port = gone.port
    SystemMail.objects.update(relay_port=port)
    assert not post.send_now(notice, is_last_try=True)
    SystemMail.objects.update(relay_port=relay.port)
    due_now()
    assert post.send_due() == 0
    assert relay.contents == []


def test_a_way_that_leads_nowhere_is_refused_with_the_field(
    rows: SystemMail, panel: Client
) -> None:
    path = page(SystemMail, f"{rows.pk}/change/")
    for fields, word in (
        ({"email": "a@acme.test"}, "name the account"),
        ({"email": "a@x.test", "relay_host": "a b"}, "host name"),
        ({"email": "a@x.test", "relay_host": "mx.test", "relay_login": "ann"}, "password"),
        ({"alert_to": "no address"}, "no address"),
        ({"relay_helo": "-"}, "relay_helo"),
    ):
        assert word in errors(send(panel, path, **fields)), fields


def test_the_row_is_neither_made_nor_deleted(rows: SystemMail, panel: Client) -> None:
    assert panel.get(page(SystemMail, "add/")).status_code == 403
    assert panel.get(page(SystemMail, f"{rows.pk}/delete/")).status_code == 403


def test_no_mail_is_owed_twice_under_one_key(relay: Taken) -> None:
    for _time in range(2):
        services.owe(NoticeKind.TEST, "a@example.com", key="same")
    assert Notice.objects.count() == 1

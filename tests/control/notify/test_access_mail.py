"""A new user, and one who lost a password, set it by a link that works once."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.module_loading import import_string

from control.access import Actor
from control.accounts.models import User
from control.accounts.services import set_password_by_link
from control.audit.models import AuditEntry
from control.notify import post, services
from control.notify.choices import NoticeKind, NoticeState
from control.notify.models import Notice, SystemMail
from tests.control.conftest import PASSWORD, House
from tests.control.notify.conftest import PUBLIC
from tests.control.pages import errors, form_of, page, send
from tests.control.test_secrets import dump, everything_shown
from tests.support.relay import Taken

pytestmark = pytest.mark.django_db
NEW = "quite another battery"
LOST = "/panel/lost_password/"


@pytest.fixture
def browser() -> Client:
    return Client(headers={"host": "localhost"})


@pytest.fixture
def invited(relay: Taken, panel: Client) -> User:
    answer = send(panel, page(User, "add/"), username="ann", email="ann@example.com")
    assert answer.status_code == 302
    return User.objects.get(username="ann")


def link_in(relay: Taken) -> str:
    """Return the path of the link in the newest mail, sent first."""
    post.send_due()
    text = relay.messages[-1].get_body(("plain",))
    assert text is not None
    found = re.search(rf"{PUBLIC}(/panel/set_password/\S+)", text.get_content())
    assert found is not None
    html = relay.messages[-1].get_body(("html",))
    assert html is not None
    assert found[0] in html.get_content()
    return found[1]


def open_link(browser: Client, path: str) -> Any:
    return browser.get(path, follow=True)


def set_by_link(browser: Client, path: str, password: str = NEW) -> Any:
    form = open_link(browser, path)
    place = form.redirect_chain[-1][0]
    return browser.post(place, {"new_password1": password, "new_password2": password}, follow=True)


def test_a_new_user_gets_a_link_sets_a_password_and_logs_in(
    relay: Taken, invited: User, browser: Client
) -> None:
    assert not invited.has_usable_password()
    path = link_in(relay)
    assert relay.envelopes[-1][1] == ["ann@example.com"]
    form = open_link(browser, path)
    token = path.rstrip("/").rpartition("/")[2]
    assert token not in form.redirect_chain[-1][0]
    assert token not in form.content.decode()
    assert "the login ann" in form.content.decode()
    assert "Your password is set" in set_by_link(browser, path).content.decode()
    assert browser.login(username="ann", password=NEW)
    entry = AuditEntry.objects.filter(object_type="accounts.user").order_by("-id")[0]
    assert (entry.actor, entry.after) == ("ann", {"password": "set"})


def test_a_link_that_was_used_or_is_old_says_so_and_leads_to_a_new_one(
    relay: Taken, invited: User, browser: Client
) -> None:
    path = link_in(relay)
    set_by_link(browser, path)
    again = open_link(Client(headers={"host": "localhost"}), path).content.decode()
    assert "expired, or was used" in again
    assert LOST in again
    browser.post(LOST, {"name": "ann"})
    fresh = link_in(relay)
    with time_machine.travel(timezone.now() + timedelta(hours=24, minutes=1), tick=False):
        assert "expired, or was used" in open_link(browser, fresh).content.decode()
    invited.refresh_from_db()
    assert invited.check_password(NEW)


def test_of_two_who_send_the_form_of_one_link_at_once_one_is_told(invited: User) -> None:
    token = default_token_generator.make_token(invited)
    both = [User.objects.get(pk=invited.pk) for _one in range(2)]  # each checked before any is set
    actor = Actor.of_user(invited)
    took = [
        set_password_by_link(one, f"{NEW} {number}", token, actor=actor)
        for number, one in enumerate(both)
    ]
    assert took == [True, False]
    invited.refresh_from_db()
    assert invited.check_password(f"{NEW} 0")


def test_a_user_who_is_gone_while_the_form_is_open_sets_nothing(
    relay: Taken, invited: User, browser: Client
) -> None:
    form = open_link(browser, link_in(relay))
    User.objects.update(is_active=False)
    place = form.redirect_chain[-1][0]
    answer = browser.post(place, {"new_password1": NEW, "new_password2": NEW}, follow=True)
    assert "expired, or was used" in answer.content.decode()
    invited.refresh_from_db()
    assert not invited.has_usable_password()


@pytest.mark.parametrize("path", ["/panel/set_password/x/y/", "/panel/set_password/MQ/a-b/"])
def test_a_link_that_is_none_says_so(relay: Taken, browser: Client, path: str) -> None:
    assert "expired, or was used" in open_link(browser, path).content.decode()


def test_a_weak_password_is_refused_with_the_reason(
    relay: Taken, invited: User, browser: Client
) -> None:
    answer = set_by_link(browser, link_in(relay), "short")
    assert "at least 12 characters" in answer.content.decode()
    invited.refresh_from_db()
    assert not invited.has_usable_password()


def test_no_link_lies_in_a_table_a_page_or_the_log(
    relay: Taken, invited: User, browser: Client, panel: Client, caplog: pytest.LogCaptureFixture
) -> None:
    path = link_in(relay)
    token = path.rstrip("/").rpartition("/")[2]
    open_link(Client(headers={"host": "localhost"}), "/panel/set_password/x/y/")
    ours = [one.getMessage() for one in caplog.records if one.name != "mail.log"]  # the relay's
    assert token not in dump() + everything_shown(panel) + "\n".join(ours)


def test_a_link_whose_request_fails_is_blotted_out_of_the_log(
    relay: Taken, invited: User, caplog: pytest.LogCaptureFixture
) -> None:
    path = link_in(relay)
    assert settings.LOGGING["handlers"]["stderr"]["filters"] == ["links"]
    named = settings.LOGGING["filters"]["links"]["()"]
    caplog.handler.addFilter(import_string(named)())
    logging.getLogger("django.request").error("%s: %s", "Internal Server Error", path)
    assert caplog.messages[-1].startswith("Internal Server Error: /panel/set_password/")
    assert path.rstrip("/").rpartition("/")[2] not in caplog.messages[-1]


def test_the_mail_of_an_account_s_user_names_no_panel_they_cannot_enter(
    relay: Taken, house: House, panel: Client
) -> None:
    fields = {"username": "ann@acme", "email": "ann@acme.test", "account": str(house.account.pk)}
    assert send(panel, page(User, "add/"), **fields).status_code == 302
    link_in(relay)
    text = relay.messages[-1].get_body(("plain",))
    assert text is not None
    assert "Login: ann@acme" in text.get_content()
    assert f"{PUBLIC}/panel/\n" not in text.get_content()


def test_the_welcome_is_sent_again_on_request_and_a_double_click_is_one_mail(
    relay: Taken, invited: User, panel: Client
) -> None:
    link_in(relay)
    action = {"action": "send_welcome", "_selected_action": [str(invited.pk)]}
    with time_machine.travel(timezone.now() + timedelta(minutes=5), tick=False):
        for _click in range(2):
            panel.post(page(User), action)
        post.send_due()
    assert [to for _from, to in relay.envelopes] == [["ann@example.com"]] * 2


def test_an_ordinary_administrator_sends_no_access_to_administrators(
    relay: Taken, invited: User, ordinary: User
) -> None:
    Notice.objects.all().delete()
    browser = Client(headers={"host": "localhost"})
    browser.force_login(ordinary)
    action = {"action": "send_welcome", "_selected_action": [str(invited.pk)]}
    answer = browser.post(page(User), action, follow=True)
    assert "may not send ann access" in answer.content.decode()
    assert not Notice.objects.exists()


def test_who_could_not_get_in_is_refused(relay: Taken, panel: Client) -> None:
    path = page(User, "add/")
    assert "needs a password, or an address" in errors(send(panel, path, username="ann"))
    form = {**form_of(panel, path), "username": "ann", "email": "a@example.com"}
    del form["sends_welcome"]
    assert "needs a password, or an address" in errors(panel.post(path, form))
    assert send(panel, path, username="ann", new_password=PASSWORD).status_code == 302


def test_without_system_mail_a_user_is_made_and_the_operator_is_told(
    rows: SystemMail, panel: Client
) -> None:
    answer = panel.post(
        page(User, "add/"),
        {"username": "ann", "email": "a@x.test", "sends_welcome": "on", "language": "en",
         "new_password": PASSWORD, "is_active": "on"},
        follow=True,
    )  # fmt: skip
    assert "System mail is not set up" in answer.content.decode()
    assert User.objects.filter(username="ann").exists()
    assert not Notice.objects.exists()


def test_a_user_without_a_password_who_gets_no_mail_is_said_to_need_one(
    relay: Taken, panel: Client
) -> None:
    settings.PUBLIC_URL = ""
    form = form_of(panel, page(User, "add/")) | {"username": "ann", "email": "ann@example.com"}
    answer = panel.post(page(User, "add/"), form, follow=True).content.decode()
    assert "No access was sent to ann: PUBLIC_URL is not set" in answer
    assert "cannot log in until you set a password" in answer
    assert not Notice.objects.exists()
    assert "manage.py reset_password" in Client().get(LOST).content.decode()

    ann = User.objects.get(username="ann")
    send(panel, page(User, f"{ann.pk}/change/"), new_password=PASSWORD)
    assert Client().login(username="ann", password=PASSWORD)


def test_a_user_whose_address_is_mended_gets_another_mail_at_once(
    relay: Taken, invited: User, panel: Client
) -> None:
    with time_machine.travel(timezone.now(), tick=False):
        User.objects.update(email="anne@example.com")
        panel.post(page(User), {"action": "send_welcome", "_selected_action": [str(invited.pk)]})
        post.send_due()
    assert [to for _from, to in relay.envelopes] == [["anne@example.com"]]


# --- a lost password ------------------------------------------------------------------------------


@pytest.fixture
def ann(relay: Taken) -> User:
    return User.objects.create_user("ann", PASSWORD, email="ann@example.com")


@pytest.mark.parametrize("name", ["ann", " ANN@example.com "])
def test_a_lost_password_is_set_anew_by_a_link(
    ann: User, relay: Taken, browser: Client, name: str
) -> None:
    assert LOST in browser.get("/panel/login/").content.decode()
    browser.post(LOST, {"name": name})
    set_by_link(browser, link_in(relay))
    ann.refresh_from_db()
    assert ann.check_password(NEW)


def test_the_page_answers_the_same_whether_there_is_somebody_or_not(
    ann: User, browser: Client
) -> None:
    User.objects.create_user("away", PASSWORD, email="away@example.com", is_active=False)
    answers = {
        re.sub(r'value="[^"]*"', "", browser.post(LOST, {"name": name}).content.decode())
        for name in ("ann", "nobody", "away", "ann@example.com", "x" * 200)
    }
    assert len(answers) == 1
    services.answer_asked()
    assert [notice.user for notice in Notice.objects.all()] == [ann]


def test_the_page_does_the_same_work_whether_there_is_somebody_or_not(
    ann: User, browser: Client, panel: Client
) -> None:
    asked = []
    for name in ("ann", "nobody", "ann@example.com"):
        with CaptureQueriesContext(connection) as found:
            browser.post(LOST, {"name": name})
        # Savepoints have names of their own each time.
        steps = [one["sql"].partition(" VALUES ")[0] for one in found]
        asked.append([step for step in steps if "SAVEPOINT" not in step])
        assert any("INSERT INTO" in step for step in asked[-1])
    assert asked[0] == asked[1] == asked[2]
    assert "nobody" not in panel.get(page(Notice)).content.decode()


def test_asking_again_and_again_sends_one_mail(ann: User, relay: Taken, browser: Client) -> None:
    with time_machine.travel(1_800_000_000, tick=False):
        for _time in range(3):
            browser.post(LOST, {"name": "ann"})
        post.send_due()
    assert len(relay.contents) == 1


def test_a_user_who_is_gone_by_then_gets_no_link(ann: User, relay: Taken, browser: Client) -> None:
    browser.post(LOST, {"name": "ann"})
    services.answer_asked()
    User.objects.update(is_active=False)
    assert post.send_due() == 0
    assert Notice.objects.get(kind=NoticeKind.PASSWORD).state == NoticeState.FAILED


def test_without_system_mail_the_page_says_what_to_do(rows: SystemMail, browser: Client) -> None:
    assert "manage.py reset_password" in browser.get(LOST).content.decode()

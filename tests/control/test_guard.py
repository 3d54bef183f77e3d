"""What strangers meet: errors in words, pages that trust nothing, a login that ends guessing."""

import json

import pytest
import redis
from django.core.cache import cache
from django.test import Client

from control.accounts import login
from control.accounts.models import User
from tests.control.conftest import PASSWORD

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser() -> Client:
    cache.clear()
    return Client(headers={"host": "localhost"})


def attempt(browser: Client, username: str, password: str, ip: str = "127.0.0.1") -> str:
    answer = browser.post(
        "/panel/login/", {"username": username, "password": password}, REMOTE_ADDR=ip
    )
    return "in" if answer.status_code == 302 else answer.content.decode()


def test_guessing_a_password_ends_after_ten_tries_even_with_the_right_one(
    browser: Client, master: User
) -> None:
    for number in range(login.TRIES):
        assert "Too many" not in attempt(browser, "master", f"wrong {number}")
    assert "Too many failed logins. Try again in 15 minutes." in attempt(browser, "MASTER", "x")
    assert "Too many failed logins" in attempt(browser, "master", PASSWORD)
    assert attempt(browser, "master", PASSWORD, ip="192.0.2.9") == "in"


def test_a_login_that_succeeds_starts_the_count_anew(browser: Client, master: User) -> None:
    for _ in range(2):
        for number in range(login.TRIES - 1):
            attempt(browser, "master", f"wrong {number}")
        assert attempt(browser, "master", PASSWORD) == "in"
        browser.logout()


def test_without_the_store_that_counts_people_can_still_log_in(
    browser: Client, master: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise redis.ConnectionError("away")

    for name in ("get", "add", "incr", "delete"):
        monkeypatch.setattr(cache, name, away)
    assert "No administrator has this login" in attempt(browser, "master", "wrong")
    assert attempt(browser, "master", PASSWORD) == "in"


@pytest.mark.parametrize("path", ["/nothing", "/panel/nothing/"])
def test_what_is_not_there_says_so_on_a_plain_page(panel: Client, path: str) -> None:
    answer = panel.get(path)
    assert answer.status_code == 404
    assert "There is nothing here" in answer.content.decode()


def test_another_host_name_is_refused_in_words_and_to_programs_as_a_problem(
    browser: Client,
) -> None:
    page = browser.get("/panel/login/", headers={"host": "evil.test"})
    assert page.status_code == 400
    assert "does not serve that host name" in page.content.decode()
    answer = browser.get("/api/v2/", headers={"host": "evil.test"})
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert json.loads(answer.content)["errors"][0]["code"] == "bad_request"


def test_the_address_api_alone_is_a_problem_and_no_redirect(browser: Client) -> None:
    answer = browser.post("/api", data="x", content_type="text/plain")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")


def test_a_form_of_another_session_is_refused_in_words(master: User) -> None:
    strict = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
    answer = strict.post("/panel/login/", {"username": "master", "password": PASSWORD})
    assert answer.status_code == 403
    assert "reload the page" in answer.content.decode()


def test_a_fault_of_ours_is_told_without_its_inside(
    panel: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("control.policy.selectors.fleet_state", fail)
    panel.raise_request_exception = False
    answer = panel.get("/panel/")
    assert answer.status_code == 500
    said = answer.content.decode()
    assert "web.log" in said
    assert "secret inside" not in said


def test_every_page_tells_the_browser_to_trust_our_own_files_alone(panel: Client) -> None:
    for path in ("/panel/", "/panel/login/", "/api/v2/", "/nothing"):
        answer = panel.get(path)
        assert "default-src 'self'" in answer["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
        assert answer["X-Content-Type-Options"] == "nosniff"


def test_the_login_leads_nowhere_but_to_our_own_pages(browser: Client, master: User) -> None:
    for target in ("https://evil.test/", "//evil.test/", "/\\evil.test", "javascript:alert(1)"):
        answer = browser.post(
            "/panel/login/", {"username": "master", "password": PASSWORD, "next": target}
        )
        assert answer.status_code == 302
        assert answer["Location"] == "/panel/" or "evil" not in answer["Location"]
        browser.logout()


def test_who_must_change_the_password_does_that_first(browser: Client, ordinary: User) -> None:
    ordinary.must_change_password = True
    ordinary.save()
    browser.force_login(ordinary)
    for path in ("/panel/", "/panel/mta/isp/", "/panel/accounts/user/add/"):
        answer = browser.get(path)
        assert (answer.status_code, answer["Location"]) == (302, "/panel/password_change/")
    new = {
        "old_password": PASSWORD,
        "new_password1": "x long one 1",
        "new_password2": "x long one 1",
    }
    assert browser.post("/panel/password_change/", new).status_code == 302
    assert browser.get("/panel/").status_code == 200


@pytest.mark.parametrize("value", ["x", "-1", "1e400", "9" * 30, "<script>"])
def test_a_chosen_row_that_is_no_number_brings_the_form_back(panel: Client, value: str) -> None:
    for path in ("/panel/accounts/apitoken/add/", "/panel/accounts/user/add/"):
        answer = panel.post(path, {"account": value, "default_sender": value})
        assert answer.status_code == 200
        assert "Select a valid choice" in answer.content.decode()

"""A hold in a real browser: placed with the panel's form, seen on every page, released."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.browser.conftest import Served
from tests.browser.test_dashboard import DESK, WITHIN_MS, Watched

pytestmark = pytest.mark.browser


@pytest.fixture
def context(chromium: Browser, served: Served) -> Iterator[BrowserContext]:
    """A browser in which the operator has logged in."""
    context = chromium.new_context(viewport=DESK, base_url=served.url)
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    page.goto("/panel/login/?next=/panel/")
    page.fill("#id_username", "operator")
    page.fill("#id_password", served.password)
    page.click("[type=submit]")
    page.wait_for_url("**/panel/")
    yield context
    context.close()


def test_a_pool_is_held_from_its_page_seen_everywhere_and_released(
    context: BrowserContext, served: Served
) -> None:
    watched = Watched(context)
    page = watched.page
    page.goto("/panel/mta/pool/add/")
    page.fill("#id_name", "to be held")
    page.click("[name=_save]")
    page.get_by_role("link", name="to be held").first.click()
    page.get_by_role("link", name="Hold its mail").click()
    expect(page.locator("#id_scope")).to_have_value("pool")
    page.fill("#id_reason", "complaints rise")
    page.click("[name=_save]")
    expect(page.locator(".messagelist .success")).to_contain_text("Held.")
    for path in ("/panel/", "/panel/reports/", "/panel/senders/sender/add/"):
        page.goto(path)
        banner = page.locator(".held")
        expect(banner).to_contain_text("Mail is held: 1 hold")
        expect(banner).to_contain_text("complaints rise")
    page.click(".held a")
    page.click("#result_list tbody tr:nth-child(1) th a")
    page.get_by_role("button", name="Release").click()
    expect(page.locator(".messagelist .success")).to_contain_text("Released: 1")
    expect(page.locator(".held")).to_have_count(0)
    watched.assert_clean(served)

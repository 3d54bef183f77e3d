"""The dashboard in a real browser: it is drawn, it keeps to its policy, it refreshes itself."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, ViewportSize, expect
from playwright.sync_api import Error as PlaywrightError

from mailcore.events import EventKind
from tests.browser.conftest import Served
from tests.support.fleet import eventually
from tests.support.happened import happened, store

pytestmark = pytest.mark.browser
PATH = "/panel/reports/"
WITHIN_MS = 60_000
PHONE: ViewportSize = {"width": 400, "height": 800}
DESK: ViewportSize = {"width": 1280, "height": 900}
# Told by the browser itself, before any script of the page runs.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
    (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="module")
def login(chromium: Browser, served: Served) -> StorageState:
    """The cookies of an operator who has logged in."""
    context = chromium.new_context(base_url=served.url)
    page = context.new_page()
    page.goto(f"/panel/login/?next={PATH}")
    page.fill("#id_username", "operator")
    page.fill("#id_password", served.password)
    page.click("[type=submit]")
    page.wait_for_url(f"**{PATH}")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def context(chromium: Browser, served: Served, login: StorageState) -> Iterator[BrowserContext]:
    """A browser of that operator."""
    context = chromium.new_context(viewport=DESK, base_url=served.url, storage_state=login)
    context.set_default_timeout(WITHIN_MS)
    yield context
    context.close()


class Watched:
    """A page, with all that went wrong in it and every host it asked."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.page.add_init_script(_WATCH)
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda one: self.hosts.add(urlsplit(one.url).netloc))

    def _said(self, message: object) -> None:
        if getattr(message, "type", "") in ("error", "warning"):
            self.complaints.append(str(getattr(message, "text", "")))

    def assert_clean(self, served: Served) -> None:
        assert self.complaints == []
        assert self.page.evaluate("window.violations") == []
        assert self.hosts == {urlsplit(served.url).netloc}


def test_the_dashboard_is_drawn_and_keeps_to_its_policy(
    context: BrowserContext, served: Served
) -> None:
    watched = Watched(context)
    page = watched.page
    for period in ("1h", "24h", "7d", "custom"):
        page.goto(f"{PATH}?period={period}")
        expect(page.locator("svg.plot")).to_have_count(2)
        expect(page.locator(".pf-tile")).to_have_count(5)
        expect(page.locator(".area-replies li")).not_to_have_count(0)
    page.goto(f"{PATH}?period=1h")
    for kind in ("delivered", "deferred", "bounced"):
        column = page.locator(f".area-outcomes g.k-{kind} rect").first
        box = column.bounding_box()
        assert box is not None
        assert box["width"] > 3
        fill = column.evaluate("one => getComputedStyle(one).fill")
        assert fill not in ("rgb(0, 0, 0)", "none"), kind
    expect(page.locator(".area-isps .name").first).to_have_text("Gmail-like")
    watched.assert_clean(served)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_is_wider_than_the_screen(
    context: BrowserContext, served: Served, size: ViewportSize
) -> None:
    watched = Watched(context)
    watched.page.set_viewport_size(size)
    watched.page.goto(f"{PATH}?period=custom")
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    for word in watched.page.locator(".area-outcomes .plot text:visible").all():
        box = word.bounding_box()
        assert box is not None
        assert box["height"] > 9  # letters are not scaled down with the picture
    watched.assert_clean(served)


def test_colours_follow_the_theme_and_stay_apart(context: BrowserContext) -> None:
    page = context.new_page()
    seen = {}
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        page.goto(PATH)
        seen[scheme] = page.evaluate(
            "[...document.querySelectorAll('.area-outcomes .pf-legend i')]"
            ".map(one => getComputedStyle(one).backgroundColor)"
        )
        assert len(set(seen[scheme])) == len(seen[scheme]) >= 6
    assert seen["light"] != seen["dark"]


def test_it_refreshes_itself_and_keeps_what_has_not_changed(
    context: BrowserContext, served: Served
) -> None:
    watched = Watched(context)
    page = watched.page
    page.clock.install()
    page.goto(PATH)
    page.evaluate("document.querySelector('.area-times svg.plot').dataset.met = 'yes'")
    page.evaluate("document.getElementById('pf-report').dataset.met = 'yes'")
    late = happened(
        EventKind.DEFERRED, datetime.now(UTC), 9, reply_normal="451 just now", isp="New", isp_id=77
    )
    store(served.statistics, [late])
    fresh = page.locator(".area-isps .name", has_text="New")

    def is_shown_after_a_while() -> bool:
        page.clock.fast_forward(11_000)
        with contextlib.suppress(PlaywrightError):
            fresh.wait_for(timeout=1_000)
        return fresh.is_visible()

    eventually(is_shown_after_a_while, within_s=WITHIN_MS / 1000)
    expect(page.locator("#pf-report")).to_have_attribute("data-met", "yes")  # not loaded again
    expect(page.locator(".area-times svg.plot")).to_have_attribute("data-met", "yes")
    watched.assert_clean(served)


def test_a_page_whose_login_has_ended_says_so(context: BrowserContext, served: Served) -> None:
    page = Watched(context).page
    page.goto(PATH)
    context.clear_cookies()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("[data-state]")).to_contain_text("logged out")


def test_without_javascript_the_page_is_whole(
    chromium: Browser, login: StorageState, served: Served
) -> None:
    plain = chromium.new_context(
        java_script_enabled=False, base_url=served.url, storage_state=login
    )
    page = plain.new_page()
    page.goto(PATH)
    expect(page.locator("svg.plot")).to_have_count(2)
    expect(page.locator("[data-pause]")).to_be_hidden()
    plain.close()

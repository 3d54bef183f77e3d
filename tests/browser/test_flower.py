"""Flower in a real browser: who runs, what waits, what a bell says; a worker is stopped, and back.

On RabbitMQ where this machine has it, else on Valkey, which keeps no count of a queue's readers.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page

from control.environment import TOP
from control.management.fleet.house import House
from control.management.fleet.launch import FLOWER_USER, Fleet, Form, answers
from control.management.fleet.processes import names_of
from mailio.broker import queues_of
from tests.support.fleet import environment_without_ours, eventually
from tests.support.services import MissingService, RabbitMq, service
from tests.support.stack import chdb_url, postgres_url, redis_url

SCREENS = TOP / "var" / "test" / "screens"
NODE = "node1"
PROCESSES = "priority,delivery*2,event,upkeep,control,beat,flower"
WORKERS = ("priority", "delivery1", "delivery2", "event", "upkeep", "control")
WITHIN_S = 60.0
# A bound for a busy machine on which all services start first.
pytestmark = pytest.mark.timeout(480)


@dataclass(frozen=True, slots=True)
class Watched:
    """A fleet without panel and lab, its Flower, and what nobody may read there."""

    fleet: Fleet
    url: str
    password: str
    has_rabbitmq: bool
    secrets: tuple[str, ...]


@pytest.fixture(scope="module")
def watched(
    chromium: Browser,
    tmp_path_factory: pytest.TempPathFactory,
    record_testsuite_property: Callable[[str, object], None],
) -> Iterator[Watched]:
    """Every worker of a node, beat and Flower."""
    var_dir = tmp_path_factory.mktemp("watched")
    key = base64.b64encode(b"k" * 32).decode()
    environ = {
        **environment_without_ours(os.environ),
        "NODE": NODE,
        "DATABASE_URL": postgres_url(),
        "REDIS_URL": redis_url(),
        "BROKER_URL": redis_url(),
        "CLICKHOUSE_URL": chdb_url(),
        "SPOOL_URL": f"file://{var_dir}/spool",
        "SECRET_KEYS": f"1:{key}",
        # Nobody receives here: nothing is sent.
        "DNS_RESOLVER": "127.0.0.1:1",
        "SMTP_PORT": "1",
    }
    secrets = [key]
    try:
        rabbitmq = service("rabbitmq", RabbitMq)
    except MissingService:
        has_rabbitmq = False
    else:
        has_rabbitmq = True
        environ["BROKER_URL"] = rabbitmq.virtual_host()
        environ["FLOWER_BROKER_API"] = rabbitmq.flower_url
        secrets.append(rabbitmq.password)
        record_testsuite_property("service", f"{rabbitmq.name} {rabbitmq.version}")
    said: list[str] = []
    house = House(var_dir, "lab", environ=environ)
    # The browser's loop runs in this thread: what a new store is told needs one of its own.
    form = Form(names_of(PROCESSES), is_new=False)
    with Fleet(house, say=said.append, form=form) as fleet:
        password = house.password("FLOWER_PASSWORD")
        url = fleet.addresses.flower
        # The fleet does not wait for it.
        eventually(lambda: answers(f"{url}healthcheck"), within_s=WITHIN_S)
        yield Watched(fleet, url, password, has_rabbitmq, (*secrets, password))


@pytest.fixture(scope="module")
def page(chromium: Browser, watched: Watched) -> Iterator[Page]:
    """A browser in which somebody has logged in at the front door, as people do."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    opened = context.new_page()
    opened.goto(watched.url.replace("://", f"://{FLOWER_USER}:{watched.password}@"))
    yield opened
    context.close()


def shows(page: Page, url: str, *texts: str, within_s: float = WITHIN_S) -> None:
    """Load a page until all of these stand on it."""

    def found() -> bool:
        page.goto(url)
        text = page.locator("body").inner_text()
        return all(one in text for one in texts)

    eventually(found, within_s=within_s, what=lambda: page.locator("body").inner_text())


def is_online(page: Page, url: str, worker: str) -> bool:
    """Whether Flower lists a worker as online."""
    page.goto(f"{url}workers")
    row = page.locator("tr", has_text=f"{worker}@{NODE}")
    return row.count() == 1 and "Online" in row.inner_text()


def readers(page: Page, url: str) -> dict[str, int]:
    """Return how many read each queue, as Flower shows it."""
    page.goto(f"{url}broker")
    heads = [one.strip().lower() for one in page.locator("thead th").all_inner_texts()]
    rows = [row.split("\t") for row in page.locator("tbody tr").all_inner_texts()]
    return {row[0].strip(): int(row[heads.index("consumers")]) for row in rows}


def photograph(page: Page, name: str) -> None:
    """Keep what stands there for people to look at."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENS / f"flower-{name}.png", full_page=True)


def wait_for_notice(page: Page, text: str) -> None:
    """Wait until Flower's notice has faded in."""
    notice = page.locator(".toast.show:not(.showing)", has_text=text)
    notice.first.wait_for(timeout=WITHIN_S * 1000)


def test_a_stranger_sees_nothing(chromium: Browser, watched: Watched) -> None:
    context = chromium.new_context()
    answer = context.request.get(f"{watched.url}workers")
    assert answer.status == 401
    assert "delivery1" not in answer.text()
    assert context.request.get(f"{watched.url}api/workers").status == 401
    assert context.request.post(f"{watched.url}api/worker/shutdown/event@{NODE}").status == 401
    context.close()


def test_every_worker_is_online_by_its_name(page: Page, watched: Watched) -> None:
    for worker in WORKERS:
        eventually(
            lambda worker=worker: is_online(page, watched.url, worker),  # type: ignore[misc]
            within_s=WITHIN_S,
            what=lambda: page.locator("body").inner_text(),
        )
    photograph(page, "workers")


def test_every_queue_is_shown_with_its_readers(page: Page, watched: Watched) -> None:
    queues = queues_of("", NODE)
    page.goto(f"{watched.url}workers?refresh=True")
    shows(page, f"{watched.url}broker", *queues)
    photograph(page, "broker")
    if watched.has_rabbitmq:
        two = {"main", f"main.{NODE}", f"retry.{NODE}"}
        wanted = {name: 2 if name in two else 1 for name in queues}
        # The broker counts once a second.
        eventually(lambda: readers(page, watched.url) == wanted, what=page.content)


def test_tasks_say_what_they_do_in_words(page: Page, watched: Watched) -> None:
    shows(page, f"{watched.url}tasks", "events.apply", "statistics", "upkeep.reap", NODE)
    photograph(page, "tasks")
    assert '{"v"' not in page.locator("body").inner_text()


def test_no_page_tells_a_secret(page: Page, watched: Watched) -> None:
    for path in ("workers", "tasks", "broker", *(f"worker/{one}@{NODE}" for one in WORKERS)):
        # Only this page asks for more when it is there.
        page.goto(watched.url + path, wait_until="networkidle" if path == "tasks" else "load")
        content = page.content()
        assert [secret for secret in watched.secrets if secret in content] == []


def test_a_pool_of_threads_is_not_grown_and_flower_says_why(page: Page, watched: Watched) -> None:
    shows(page, f"{watched.url}worker/delivery1@{NODE}", "Pool controls".upper())
    page.locator("#worker-pool-grow").click()
    wait_for_notice(page, "the number of threads is fixed")
    photograph(page, "grow-refused")


def test_a_worker_that_is_shut_down_there_comes_back(page: Page, watched: Watched) -> None:
    before = watched.fleet.pids()
    shows(page, f"{watched.url}worker/event@{NODE}", f"event@{NODE}")
    page.get_by_role("button", name="Actions").click()
    page.locator("#worker-shutdown").click()
    wait_for_notice(page, "Shutting down")
    photograph(page, "shut-down")

    def is_another() -> bool:
        return watched.fleet.pids().get("event", before["event"]) != before["event"]

    eventually(is_another, within_s=WITHIN_S)
    eventually(lambda: is_online(page, watched.url, "event"), within_s=WITHIN_S)
    others = {name: pid for name, pid in before.items() if name != "event"}
    assert others.items() <= watched.fleet.pids().items()
    photograph(page, "back")


def test_a_worker_that_an_operator_stops_stays_down_until_it_is_started(
    page: Page, watched: Watched
) -> None:
    watched.fleet.stop_one("event")
    assert "event" not in watched.fleet.pids()
    eventually(lambda: not is_online(page, watched.url, "event"), within_s=WITHIN_S)
    watched.fleet.start_one("event")
    eventually(lambda: is_online(page, watched.url, "event"), within_s=WITHIN_S)

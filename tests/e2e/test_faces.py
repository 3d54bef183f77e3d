"""What people and load balancers look at: the panel, Flower, health and readiness."""

import urllib.error
import urllib.request

import pytest

from tests.support.fleet import Running, eventually
from tests.support.panel import Panel


def look(url: str, **headers: str) -> tuple[int, str]:
    """Return status and text of a page, whatever the status."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as answer:  # noqa: S310 (http)
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_health_and_readiness_answer(running: Running) -> None:
    root = running.fleet.addresses.panel.removesuffix("panel/")
    assert look(f"{root}health") == (200, "OK")
    status, text = look(f"{root}readiness")
    assert (status, text.replace(" ", "")) == (200, '{"status":"OK"}')


def test_the_panel_says_lab_before_and_after_login(running: Running) -> None:
    stranger = Panel(running.fleet.addresses.panel)
    page = stranger.get()
    assert "/login/" in page.url
    assert "lab" in page.text.lower()
    assert "policy" not in page.text.lower()
    inside = running.panel().get()
    assert inside.url == running.fleet.addresses.panel
    assert "lab" in inside.text.lower()


def test_a_wrong_password_is_refused(running: Running) -> None:
    stranger = Panel(running.fleet.addresses.panel)
    page = stranger.send("login/", "login-form", username="operator", password="a-wrong-password")
    assert "/login/" in page.url
    assert "No administrator has this login and password" in page.text


def test_flower_asks_for_the_password_and_lists_every_worker(running: Running) -> None:
    assert running.flower("/workers?json=1", "operator:not-it").status == 401
    assert look(running.fleet.addresses.flower)[0] == 401
    kinds = [name for name in running.fleet.pids() if name not in ("web", "beat", "flower")]
    assert {"priority", "delivery1", "event", "upkeep"} <= set(kinds)

    def shown() -> str:
        return running.flower("/workers?json=1").body.decode()

    eventually(lambda: all(f'"{kind}@' in shown() for kind in kinds), what=shown)


@pytest.mark.parametrize("path", ["login/", "", "mta/isp/"])
def test_a_request_for_another_host_is_refused(running: Running, path: str) -> None:
    status, text = look(running.fleet.addresses.panel + path, Host="evil.example.com")
    assert status == 400
    assert "Traceback" not in text

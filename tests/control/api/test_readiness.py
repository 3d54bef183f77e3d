"""A load balancer moves on while mail would be refused; health stays as it is."""

from dataclasses import replace

import pytest
from django.conf import settings
from django.test import Client

from control.submission import services
from mailcore.ports import StoreUnavailable
from mailio.settings import Settings
from tests.control.api.conftest import Api, message

pytestmark = pytest.mark.django_db


def failed(api: Api) -> list[str]:
    """Return what /readiness names beside ClickHouse, which these tests do without."""
    answer = Client().get("/readiness")
    names: list[str] = answer.json().get("failed", [])
    assert answer.status_code == (503 if names else 200)
    assert Client().get("/health").status_code == 200
    return [name for name in names if name != "clickhouse"]


def replaced(**changes: object) -> None:
    """Change this process's door; the fixture opens a new one for each test."""
    (pid,) = services._Doors.opened
    services._Doors.opened[pid] = replace(services._Doors.opened[pid], **changes)  # type: ignore[arg-type]


def test_readiness_names_the_spool_while_its_disk_is_too_full(api: Api) -> None:
    assert failed(api) == []
    replaced(stop_bytes=lambda: 2**62)
    assert failed(api) == ["spool"]
    replaced(stop_bytes=lambda: 0)
    assert failed(api) == []


def test_readiness_names_the_outbox_while_mail_is_refused_for_it(
    api: Api, stores: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = replace(stores, database_url=api.url, outbox_stop_bytes=1)
    monkeypatch.setattr(settings, "POSTFLEET", ours)
    assert failed(api) == []
    assert api.send(message()).status_code == 202
    assert failed(api) == ["outbox"]
    monkeypatch.setattr(settings, "POSTFLEET", replace(ours, outbox_stop_bytes=10**6))
    assert failed(api) == []


def test_without_a_policy_the_spool_is_not_to_blame(api: Api) -> None:
    def none_yet() -> int:
        raise StoreUnavailable("policy", "no policy was published yet")

    replaced(stop_bytes=none_yet)
    assert failed(api) == []

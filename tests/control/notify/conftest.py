"""System mail that is set up, on our own path or by a relay that stands here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings

from control.notify.models import SystemMail
from control.notify.services import create_rows
from tests.control.api.conftest import Api, api
from tests.control.conftest import SYSTEM, House
from tests.control.reports.conftest import away, statistics
from tests.support.relay import Taken, taking

__all__ = ["Api", "api", "away", "statistics"]
PUBLIC = "https://panel.example.com"


@pytest.fixture(autouse=True)
def public_url() -> Iterator[None]:
    before, settings.PUBLIC_URL = settings.PUBLIC_URL, PUBLIC
    yield
    settings.PUBLIC_URL = before


@pytest.fixture
def rows(house: House) -> SystemMail:
    """The rows as seeded: no way is set up."""
    create_rows(actor=SYSTEM)
    return SystemMail.objects.get()


def set_up(row: SystemMail, **fields: Any) -> SystemMail:
    """Change and store the row."""
    for name, value in {"email": "postfleet@acme.test", **fields}.items():
        setattr(row, name, value)
    row.full_clean()
    row.save()
    return row


@pytest.fixture
def relay(rows: SystemMail) -> Iterator[Taken]:
    """System mail leaves by a relay without TLS on this machine."""
    with taking() as taken:
        set_up(
            rows,
            relay_host="127.0.0.1",
            relay_port=taken.port,
            without_tls=True,
            alert_to=["ops@example.com"],
        )
        yield taken

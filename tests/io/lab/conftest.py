"""A lab per test, in the test's own loop, on its own free ports."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lab.run import Lab
from tests.io.lab.support import running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every MX host has an address of its own on loopback."""
    for item in items:
        if "tests/io/lab" in item.path.as_posix():
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.0/8"]))


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running(tmp_path / "lab") as one:
        yield one

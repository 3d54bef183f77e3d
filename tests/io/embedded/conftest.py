"""One running stack for all tests of this folder that do not end it."""

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedded.stack import Stack
from tests.io.embedded.world import bare_environment


@dataclass(frozen=True, slots=True)
class Running:
    stack: Stack
    var: Path
    urls: dict[str, str]
    lines: "queue.Queue[str]"

    def pid(self, name: str) -> int | None:
        return self.stack.status()[name].pid


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """PostgreSQL, Valkey and chdb, durable, in a directory with a space in its path."""
    var = tmp_path_factory.mktemp("a place") / "var"
    lines: queue.Queue[str] = queue.Queue()
    with Stack(var, bare_environment(), say=lines.put) as stack:
        yield Running(stack, var, stack.urls(), lines)

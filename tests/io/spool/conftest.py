"""The kinds of spool: segment files and the double always, the real engine where it was asked for.

Gives    the fixture `place`, once for each kind; `double`, and `mongo` for what only databases have
Takes    WITH_MONGODB=1, as make test-mongodb sets it
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.io.spool.kinds import Files, Mongo, Place
from tests.support.mongo.double import Double
from tests.support.ports import free_port
from tests.support.services import documentdb as documentdb

REAL = ["documentdb"] if os.environ.get("WITH_MONGODB") else []


@pytest.fixture
def double() -> Iterator[Double]:
    """A server in memory."""
    double = Double(free_port())
    double.start()
    yield double
    double.stop()


@pytest.fixture(params=["double", *REAL])
def mongo(request: pytest.FixtureRequest) -> Iterator[Mongo]:
    """A database, on the double and on the real engine."""
    server = request.getfixturevalue(request.param)
    with ExitStack() as stack:
        yield Mongo(server.url() if request.param == "double" else server.database(), stack)


@pytest.fixture(params=["files", "double", *REAL])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A spool of each kind."""
    with ExitStack() as stack:
        if request.param == "files":
            yield Files(tmp_path / "spool", stack)
        else:
            server = request.getfixturevalue(request.param)
            yield Mongo(server.url() if request.param == "double" else server.database(), stack)

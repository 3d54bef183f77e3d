"""`manage.py check_queue`: what it says, what it mends, its exit code."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError

from control.reports.management.commands.check_queue import _ring
from mailcore.invariants import Mend
from mailio.ledger.accept import Acceptor
from mailio.ledger.check import CheckBook
from mailio.ledger.spool import SpoolBook
from mailio.settings import Settings
from mailio.spool.files import segment_path
from mailio.spool.segments import SegmentSpool
from tests.io.ledger.world import accept, message

pytestmark = pytest.mark.django_db
Run = Callable[..., list[tuple[Any, ...]]]


def check(*arguments: str) -> tuple[int, str]:
    """Return the exit code and what was said."""
    out = io.StringIO()
    try:
        call_command("check_queue", *arguments, stdout=out, stderr=io.StringIO())
    except SystemExit as exc:
        return int(str(exc.code)), out.getvalue()
    return 0, out.getvalue()


def refused(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the error of a command that could not check."""
    with pytest.raises(CommandError) as caught:
        call_command("check_queue", *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    return caught.value.returncode, str(caught.value)


def here() -> Settings:
    """Return the settings of the process."""
    assert settings.POSTFLEET is not None
    return settings.POSTFLEET


@pytest.fixture
def queue(stores: Settings, database_url: str, tmp_path: Path) -> Iterator[Run]:
    """A queue of three with their content; runs SQL."""
    directory = tmp_path / "spool"
    settings.POSTFLEET = dataclasses.replace(
        stores, database_url=database_url, spool_url=f"file://{directory}"
    )
    line = psycopg2.connect(database_url)
    line.autocommit = True

    def run(sql: str, *params: object) -> list[tuple[Any, ...]]:
        with line.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description is not None else []

    run("TRUNCATE ledger_row, ledger_lane, ledger_outbox, queue_finding, queue_check, queue_age")
    with closing(SpoolBook(database_url)) as book:
        installation = book.home("node1").installation
    spool = SegmentSpool(directory, min_free_bytes=0, owner=lambda: installation)
    with closing(spool), closing(Acceptor(database_url)) as acceptor:
        for number, ref in enumerate(spool.append([b"one", b"two", b"three"])):
            accept(acceptor, message(f"{number}@one.test", content=ref))
    yield run
    run("TRUNCATE ledger_row, ledger_lane, ledger_outbox, queue_finding, queue_check, queue_age")
    line.close()
    settings.POSTFLEET = stores


def test_a_queue_that_is_right_ends_with_0_and_is_noted(queue: Run) -> None:
    code, said = check()
    assert code == 0
    assert "3 rows looked at" in said
    assert "a sample of 3 contents of node1 read back" in said
    assert "oldest waiting:" in said
    assert said.endswith("everything is as it must be\n")
    assert queue("SELECT part, node, looked_at, is_whole FROM queue_check ORDER BY 1") == [
        ("content", "node1", 3, False),
        ("ledger", "", 3, True),
    ]


def test_wrong_counts_are_mended_unless_that_is_not_wanted(queue: Run) -> None:
    queue("UPDATE ledger_lane SET waiting = 99")
    code, said = check("--no-mend", "--content=none")
    assert code == 1
    assert "lane_counts: A lane counts other rows than it has." in said
    assert queue("SELECT waiting FROM ledger_lane") == [(99,)]
    code, said = check("--content=none")
    assert code == 0
    assert said.split("examples\n")[1].split()[:3] == ["lane_counts", "0", "1"]
    assert queue("SELECT waiting FROM ledger_lane") == [(3,)]
    assert "everything is as it must be" in check("--content=none")[1]


def test_lost_content_is_found_by_a_whole_look_and_told_to_programs(queue: Run) -> None:
    segment = queue("SELECT DISTINCT content_segment FROM ledger_row")[0][0]
    segment_path(here().spool_dir, segment).unlink()
    code, said = check("--content=all", "--json")
    assert code == 1
    document = json.loads(said)
    assert document["rows"] == 3
    assert document["contents"] == {"read": 3, "is_whole": True, "elsewhere": 0}
    (finding,) = document["findings"]
    assert (finding["invariant"], finding["count"]) == ("content_lost", 3)
    assert finding["severity"] == "error"
    assert set(document["oldest_s"]) == {"waiting", "leased", "unknown"}


def test_what_nobody_may_mend_stays_as_it_is(queue: Run) -> None:
    queue("UPDATE ledger_row SET state = 1, incarnation = NULL WHERE recipient = '0@one.test'")
    queue("UPDATE ledger_lane SET waiting = 2, leased = 1")
    for _ in range(2):
        code, said = check("--content=none")
        assert code == 1
        assert "no_owner: A leased row belongs to no process" in said
        assert "docs/operate/check-queue.md" in said


def test_upkeep_is_asked_for_what_only_it_may_do(queue: Run) -> None:
    asyncio.run(_ring(here(), frozenset({Mend.EXPIRE, Mend.REAP})))
    with closing(redis.Redis.from_url(here().broker_url)) as broker:
        rung = {name: broker.lrange(name, 0, -1) for name in ("upkeep", "upkeep.node1")}
        broker.delete(*rung)
    (expire,), (reap,) = rung.values()
    assert b"upkeep.expire" in expire
    assert b"upkeep.reap" in reap


def test_a_host_without_the_content_of_this_installation_is_told_so(
    queue: Run, tmp_path: Path
) -> None:
    settings.POSTFLEET = dataclasses.replace(here(), spool_url=f"file://{tmp_path}/empty")
    code, said = refused()
    assert code == 2
    assert "could not check: spool is away: no content of this installation" in said
    assert "--content=none" in said
    assert check("--content=none")[0] == 0


def test_a_database_that_is_away_is_named(queue: Run) -> None:
    settings.POSTFLEET = dataclasses.replace(
        here(), database_url="postgresql://nobody@127.0.0.1:1/none"
    )
    code, said = refused()
    assert code == 2
    assert said.startswith("could not check: postgresql is away:")


def test_two_checks_at_once_are_one(queue: Run, database_url: str) -> None:
    with closing(CheckBook(database_url)) as other:
        assert other.lead()
        code, said = refused("--content=none")
    assert (code, "another process" in said) == (2, True)


class Stopping(io.StringIO):
    """Where progress is shown; somebody presses Ctrl-C."""

    def isatty(self) -> bool:
        raise KeyboardInterrupt


def test_a_check_that_is_stopped_says_so_and_notes_nothing_half(queue: Run) -> None:
    with pytest.raises(CommandError, match="stopped; no half look was noted") as caught:
        call_command("check_queue", stdout=io.StringIO(), stderr=Stopping())
    assert caught.value.returncode == 2
    assert queue("SELECT count(*) FROM queue_check") == [(0,)]
    assert check("--content=none")[0] == 0  # the lock is free

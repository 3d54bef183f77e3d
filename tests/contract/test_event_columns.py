"""Every field of an event has a column that can hold it, on every engine there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailcore.events import FIELDS
from mailcore.stats import NUMBERS
from mailio.stats import ClickhouseStatistics, open_statistics
from mailio.stats.driver import Row
from mailio.stats.roll_up import OUTCOME_NAMES, REPLY_NAMES
from tests.io.stats.server import server_url
from tests.support.stack import chdb_url


@pytest.fixture(params=["chdb", "clickhouse-server"])
def statistics(request: pytest.FixtureRequest) -> Iterator[ClickhouseStatistics]:
    url = chdb_url() if request.param == "chdb" else server_url()
    if url is None:
        pytest.skip("clickhouse-server is not installed: the server's half of this test is left")
    opened = open_statistics(url)
    opened.migrate()
    yield opened
    opened.close()


def columns(statistics: ClickhouseStatistics, table: str) -> dict[str, Row]:
    return {row[0]: row[1:] for row in statistics._driver.query(f"DESCRIBE TABLE {table}")}


def test_the_columns_of_events_are_the_fields_in_their_order(
    statistics: ClickhouseStatistics,
) -> None:
    found = columns(statistics, "event")
    stored = [name for name, (_, default, *_) in found.items() if default != "MATERIALIZED"]
    assert stored == list(FIELDS)
    for name in FIELDS:
        kind, default = found[name][:2]
        is_number = kind.startswith(("UInt", "Int"))
        assert is_number is (name in NUMBERS), f"{name} is {kind}"
        # An empty field is left out of the body; the column must then be empty as well.
        assert default == "", f"{name} has a default of its own"


def test_what_roll_ups_count_by_are_fields_of_events(statistics: ClickhouseStatistics) -> None:
    events = columns(statistics, "event")
    for table, names in (("roll_up", OUTCOME_NAMES), ("roll_up_reply", REPLY_NAMES)):
        found = columns(statistics, table)
        for name in names:
            assert found[name][0] == events[name][0], f"{table}.{name}"

"""Where mail did not arrive, and how long it took where it did: on each engine there is."""

from datetime import UTC, datetime, timedelta

import pytest

from mailcore.events import EventKind
from mailio.stats import ClickhouseStatistics
from mailio.stats.reports import Undelivered
from tests.support.happened import happened, store

AT = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
SINCE, UNTIL = AT - timedelta(minutes=5), AT + timedelta(minutes=5)


def test_undeliveries_are_counted_once_within_their_period_and_filters(
    statistics: ClickhouseStatistics,
) -> None:
    said = {"reply_normal": "550 it's gone", "isp_id": 3}
    bounced = [happened(EventKind.BOUNCED, AT, n, **said) for n in range(3)]
    other = happened(EventKind.EXPIRED, AT, 7, source_ip="192.0.2.7", isp_id=4)
    early = happened(EventKind.BOUNCED, SINCE - timedelta(minutes=1), 8, **said)
    store(statistics, [*bounced, other, early, happened(EventKind.DELIVERED, AT, 9)])
    store(statistics, bounced)
    ask = statistics.reports.undeliveries
    assert ask(since=SINCE, until=UNTIL) == [
        Undelivered("acme.test", "receiver.test", "550 it's gone", 3),
        Undelivered("acme.test", "receiver.test", "", 1),
    ]
    by_ip = ask(since=SINCE, until=UNTIL, group_by="source_ip", where={"isp_id": 4})
    assert by_ip == [Undelivered("192.0.2.7", "receiver.test", "", 1)]


def test_what_cannot_be_grouped_or_filtered_by_is_refused(
    statistics: ClickhouseStatistics,
) -> None:
    with pytest.raises(ValueError, match="'recipient' is none of from_domain, source_ip"):
        statistics.reports.undeliveries(since=SINCE, until=UNTIL, group_by="recipient")
    with pytest.raises(ValueError, match="'reply' is no dimension"):
        statistics.reports.undeliveries(since=SINCE, until=UNTIL, where={"reply": "x"})


def test_histograms_hold_every_delivery_and_no_other_event(
    statistics: ClickhouseStatistics,
) -> None:
    times = (10, 10, 4_000)
    delivered = [
        happened(EventKind.DELIVERED, AT, n, queue_ms=ms, isp_id=2) for n, ms in enumerate(times)
    ]
    store(statistics, [*delivered, happened(EventKind.BOUNCED, AT, 9, queue_ms=10, isp_id=2)])
    found = statistics.reports.delivery_histograms(since=SINCE, until=UNTIL, by=("isp_id",))
    assert list(found) == [(2,)]
    assert sorted(found[2,].values()) == [1, 2]

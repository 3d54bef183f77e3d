"""A campaign through the API to three providers, counted where it arrived."""

from mailio.ledger.figures import LedgerFigures
from mailio.ledger.spool import SpoolBook
from mailio.spool.segments import SegmentSpool
from tests.support.fleet import Load, Running


def test_every_accepted_message_arrives_once_or_is_refused(
    running: Running, campaign: Load
) -> None:
    seen = running.seen(campaign)
    assert len(seen.accepted) + len(seen.refused) == campaign.accepted
    assert seen.copies == 0
    assert not seen.accepted & seen.refused
    assert seen.refused  # one provider refuses a fifth, one greylists everybody
    assert seen.deferrals


def test_the_statistics_say_what_the_receivers_counted(running: Running, campaign: Load) -> None:
    seen = running.seen(campaign)
    assert running.statistics.counts(campaign=campaign.campaign) == {
        "accepted": campaign.accepted,
        "delivered": len(seen.accepted),
        "bounced": len(seen.refused),
        "deferred": seen.deferrals,
    }
    assert running.statistics.final_counts(campaign=campaign.campaign) == {
        "delivered": len(seen.accepted),
        "bounced": len(seen.refused),
    }


def test_nothing_is_left_in_queue_lanes_or_spool(running: Running, campaign: Load) -> None:
    assert campaign.accepted
    assert running.one("SELECT count(*) FROM ledger_row") == 0
    assert running.one("SELECT count(*) FROM ledger_lane") > 0
    counted = "SELECT count(*) FROM ledger_lane WHERE (waiting, leased, unknown) <> (0, 0, 0)"
    assert running.one(counted) == 0
    figures = LedgerFigures(running.settings.database_url)
    book = SpoolBook(running.settings.database_url)
    spool = SegmentSpool(running.settings.spool_dir)
    try:
        assert figures.counts().queued == 0
        segments = [segment.number for segment in spool.segments()]
        assert segments
        assert book.live_segments(segments) == []
    finally:
        spool.close()
        book.close()
        figures.close()


def test_the_trace_of_a_message_is_told_by_the_api(running: Running, campaign: Load) -> None:
    state = running.api.recipient(campaign.message_ids[0])
    assert state["state"] in ("delivered", "bounced")
    assert state["queue"] is None
    kinds = [event["kind"] for event in state["trace"]]
    assert (kinds[0], kinds[-1]) == ("accepted", state["state"])

"""What `manage.py fleet` says and decides, without starting anything."""

from dataclasses import replace

from control.management.fleet.campaign import Tally

WHOLE = Tally(
    accepted=10,
    delivered=7,
    bounced=1,
    expired=1,
    stopped=1,
    purged=0,
    queued=0,
    duplicated=0,
)


def test_a_campaign_is_whole_when_each_message_came_to_one_end() -> None:
    assert WHOLE.is_whole


def test_a_fleet_that_delivers_nothing_is_not_whole_though_all_is_accounted_for() -> None:
    stuck = replace(WHOLE, delivered=0, queued=7)
    assert stuck.unaccounted == 0
    assert not stuck.is_whole


def test_a_message_lost_or_delivered_twice_is_not_whole() -> None:
    assert not replace(WHOLE, delivered=6).is_whole
    assert not replace(WHOLE, duplicated=1).is_whole

"""The shaper against a real Valkey: slots, the pause of an emptied store, schedules, bells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
import uvloop

from mailcore.bells import Path
from mailcore.outcome import MailClass
from mailcore.ports import Rate, StoreUnavailable
from mailio.shaper import RedisShaper
from tests.support.stack import redis_url

PATH = Path(7, "mx.example.com")
OTHER = Path(8, "mx.example.com")


@pytest.fixture
def url() -> str:
    return redis_url()


@pytest.fixture
async def shaper(url: str) -> AsyncIterator[RedisShaper]:
    made = RedisShaper(url)
    await made.mark_born()
    yield made
    await made.close()


async def until(shaper: RedisShaper, *, wanted: int, limit: int) -> list[str]:
    """Ask again and again, as an engine does, until some slots are given."""
    while True:
        slots = await shaper.open_slots(PATH, wanted=wanted, limit=limit)
        if slots:
            return list(slots)
        await asyncio.sleep(0.02)


# ── slots ─────────────────────────────────────────────────────────────────────────────────────


async def test_main_mail_never_takes_the_last_slot_of_a_limit(shaper: RedisShaper) -> None:
    main = await shaper.open_slots(PATH, wanted=10, limit=5)
    assert len(main) == 4
    assert await shaper.open_slots(PATH, wanted=1, limit=5) == []
    priority = await shaper.open_slots(PATH, wanted=3, limit=5, mail_class=MailClass.PRIORITY)
    assert len(priority) == 1
    assert len({*main, *priority}) == 5


async def test_priority_may_use_every_slot_and_main_waits_for_one_of_its_own(
    shaper: RedisShaper,
) -> None:
    priority = await shaper.open_slots(PATH, wanted=9, limit=3, mail_class=MailClass.PRIORITY)
    assert len(priority) == 3
    assert await shaper.open_slots(PATH, wanted=1, limit=3) == []
    await shaper.close_slots([(PATH, priority[0])])
    assert len(await shaper.open_slots(PATH, wanted=2, limit=3)) == 1


async def test_a_limit_of_one_is_shared_by_both_classes(shaper: RedisShaper) -> None:
    assert len(await shaper.open_slots(PATH, wanted=2, limit=1)) == 1
    refused = await shaper.open_slots(PATH, wanted=1, limit=1, mail_class=MailClass.PRIORITY)
    assert refused == []


async def test_without_a_limit_slots_are_given_and_still_counted(shaper: RedisShaper) -> None:
    assert len(await shaper.open_slots(PATH, wanted=50, limit=0)) == 50
    assert await shaper.open_slots(PATH, wanted=1, limit=50) == []
    assert len(await shaper.open_slots(OTHER, wanted=1, limit=50)) == 1


async def test_asking_for_nothing_gives_nothing(shaper: RedisShaper) -> None:
    assert list(await shaper.open_slots(PATH, wanted=0, limit=5)) == []


async def test_two_processes_together_stay_within_the_limit(shaper: RedisShaper, url: str) -> None:
    second = RedisShaper(url)
    asked = [
        each.open_slots(PATH, wanted=1, limit=8) for _ in range(10) for each in (shaper, second)
    ]
    given = [slot for slots in await asyncio.gather(*asked) for slot in slots]
    await second.close()
    assert len(given) == len(set(given)) == 7


async def test_a_slot_nobody_renews_runs_out(url: str) -> None:
    shaper = RedisShaper(url, slot_lifetime_s=0.2)
    await shaper.mark_born()
    held = await shaper.open_slots(PATH, wanted=1, limit=1)
    assert len(held) == 1
    assert await until(shaper, wanted=1, limit=1) != held
    await shaper.close()


async def test_a_renewed_slot_stays_beyond_its_lifetime(url: str) -> None:
    shaper = RedisShaper(url, slot_lifetime_s=0.5)
    await shaper.mark_born()
    held = await shaper.open_slots(PATH, wanted=1, limit=1)
    for _ in range(8):
        await asyncio.sleep(0.1)
        await shaper.renew_slots([(PATH, held[0])])
        assert await shaper.open_slots(PATH, wanted=1, limit=1) == []
    await shaper.close()


async def test_a_refused_request_is_told_to_those_who_hold_slots(shaper: RedisShaper) -> None:
    held = await shaper.open_slots(PATH, wanted=3, limit=4)
    other = await shaper.open_slots(OTHER, wanted=1, limit=4)
    slots = [(PATH, held[0]), (PATH, held[1]), (OTHER, other[0])]
    assert await shaper.renew_slots(slots) == []
    assert await shaper.open_slots(PATH, wanted=1, limit=4) == []
    assert await shaper.renew_slots(slots) == [PATH]


# ── a store that is new or was emptied ────────────────────────────────────────────────────────


async def test_a_store_nobody_declared_new_grants_nothing_for_a_lifetime(url: str) -> None:
    shaper = RedisShaper(url)
    assert await shaper.open_slots(PATH, wanted=1, limit=0) == []
    grant = await shaper.grant(PATH, want=5, rate=Rate(60, 60.0))
    assert grant.count == 0
    assert 0 < grant.first_s <= 30
    await shaper.close()


async def test_the_installer_may_declare_a_store_new_once(url: str) -> None:
    shaper = RedisShaper(url)
    assert await shaper.mark_born()
    assert not await shaper.mark_born()
    assert len(await shaper.open_slots(PATH, wanted=1, limit=0)) == 1
    await shaper.close()


async def test_declaring_a_store_new_does_not_cut_a_pause_short(url: str) -> None:
    shaper = RedisShaper(url)
    assert await shaper.open_slots(PATH, wanted=1, limit=0) == []
    assert not await shaper.mark_born()
    assert await shaper.open_slots(PATH, wanted=1, limit=0) == []
    await shaper.close()


async def test_after_a_flush_holders_register_again_before_anything_is_granted(url: str) -> None:
    shaper = RedisShaper(url, slot_lifetime_s=0.4)
    await shaper.mark_born()
    held = await shaper.open_slots(PATH, wanted=3, limit=4)
    assert len(held) == 3
    with redis.Redis.from_url(url) as store:
        store.flushdb()
    slots = [(PATH, slot) for slot in held]
    renewals = asyncio.create_task(_renew_forever(shaper, slots))
    assert await shaper.open_slots(PATH, wanted=4, limit=5) == []
    assert len(await until(shaper, wanted=4, limit=5)) == 1
    renewals.cancel()
    await shaper.close()


async def _renew_forever(shaper: RedisShaper, slots: list[tuple[Path, str]]) -> None:
    while True:
        await shaper.renew_slots(slots)
        await asyncio.sleep(0.05)


# ── rates ─────────────────────────────────────────────────────────────────────────────────────


async def test_an_unlimited_rate_is_granted_whole_without_asking(url: str) -> None:
    unreachable = RedisShaper("redis://127.0.0.1:1/0")
    grant = await unreachable.grant(PATH, want=1000, rate=Rate(0, 60.0))
    assert (grant.count, grant.first_s, grant.interval_s) == (1000, 0.0, 0.0)


async def test_grants_follow_one_another_without_a_gap_or_an_overlap(shaper: RedisShaper) -> None:
    rate = Rate(1000, 1.0)
    first = await shaper.grant(PATH, want=1000, rate=rate)
    second = await shaper.grant(PATH, want=1000, rate=rate)
    assert first.count == second.count == 1000
    assert first.first_s == 0.0
    spacing = 1.0 / (999 * 0.99 * 0.9)
    assert first.interval_s == pytest.approx(spacing)
    # Some of the first schedule has gone by; no more than that is missing.
    assert 0 < second.first_s <= 1000 * spacing + 0.00001


async def test_a_schedule_reaches_one_horizon_and_then_says_when_to_ask_again(
    shaper: RedisShaper,
) -> None:
    rate = Rate(9, 9.0)
    first = await shaper.grant(PATH, want=100, rate=rate)
    assert first.count == 4
    second = await shaper.grant(PATH, want=100, rate=rate)
    assert second.count == 4
    assert 3 < second.first_s < 4.1
    third = await shaper.grant(PATH, want=100, rate=rate)
    assert third.count == 0
    assert 2 < third.first_s < 3.1


async def test_a_slow_rate_is_granted_one_message_at_a_time(shaper: RedisShaper) -> None:
    rate = Rate(1, 3600.0)
    assert (await shaper.grant(PATH, want=10, rate=rate)).count == 1
    later = await shaper.grant(PATH, want=10, rate=rate)
    assert later.count == 0
    assert 3600 < later.first_s < 3640


async def test_main_mail_leaves_a_tenth_of_the_rate_to_priority(shaper: RedisShaper) -> None:
    rate = Rate(100, 10.0)
    while (await shaper.grant(PATH, want=100, rate=rate)).count:
        pass
    grant = await shaper.grant(PATH, want=100, rate=rate, mail_class=MailClass.PRIORITY)
    assert grant.first_s == 0.0
    assert grant.interval_s == pytest.approx(10.0 / (99 * 0.99 * 0.1))
    assert grant.count == 4


async def test_priority_uses_the_common_stream_while_it_is_idle(shaper: RedisShaper) -> None:
    rate = Rate(100, 10.0)
    grant = await shaper.grant(PATH, want=2, rate=rate, mail_class=MailClass.PRIORITY)
    assert grant.interval_s == pytest.approx(10.0 / (99 * 0.99 * 0.9))


async def test_what_is_given_back_may_be_granted_again(shaper: RedisShaper) -> None:
    rate = Rate(9, 9.0)
    grant = await shaper.grant(PATH, want=4, rate=rate)
    await shaper.return_grant(PATH, unused=4, rate=rate, ticket=grant.ticket)
    again = await shaper.grant(PATH, want=4, rate=rate)
    assert again.count == 4
    assert again.first_s < 0.5


async def test_a_grant_that_others_stand_behind_cannot_be_given_back(shaper: RedisShaper) -> None:
    rate = Rate(9, 9.0)
    first = await shaper.grant(PATH, want=2, rate=rate)
    second = await shaper.grant(PATH, want=2, rate=rate)
    await shaper.return_grant(PATH, unused=2, rate=rate, ticket=first.ticket)
    third = await shaper.grant(PATH, want=1, rate=rate)
    assert third.first_s > second.first_s + second.interval_s


async def test_no_more_is_given_back_than_the_grant_itself_held(shaper: RedisShaper) -> None:
    rate = Rate(9, 9.0)
    await shaper.grant(PATH, want=1, rate=rate)
    others = await shaper.grant(PATH, want=1, rate=rate)
    own = await shaper.grant(PATH, want=2, rate=rate)
    await shaper.return_grant(PATH, unused=4, rate=rate, ticket=own.ticket)
    again = await shaper.grant(PATH, want=1, rate=rate)
    assert again.first_s > others.first_s + others.interval_s / 2


# ── bells ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_path_gets_as_many_bells_as_it_wants_and_no_more(shaper: RedisShaper) -> None:
    assert await shaper.take_bells([(PATH, 2), (OTHER, 1)]) == [PATH, OTHER]
    assert await shaper.take_bells([(PATH, 2), (OTHER, 1)]) == [PATH]
    assert await shaper.take_bells([(PATH, 2), (OTHER, 1)]) == []
    await shaper.drop_bells([OTHER])
    assert await shaper.take_bells([(PATH, 2), (OTHER, 1)]) == [OTHER]


async def test_bells_of_the_two_classes_do_not_silence_each_other(shaper: RedisShaper) -> None:
    assert await shaper.take_bells([(PATH, 1)]) == [PATH]
    assert await shaper.take_bells([(PATH, 1)], mail_class=MailClass.PRIORITY) == [PATH]


async def test_dropping_a_bell_nobody_counted_leaves_none(shaper: RedisShaper) -> None:
    await shaper.drop_bells([PATH, PATH])
    assert await shaper.take_bells([(PATH, 1)]) == [PATH]
    assert await shaper.take_bells([]) == ()
    await shaper.drop_bells([])


async def test_a_drain_that_lives_keeps_its_bells(url: str) -> None:
    shaper = RedisShaper(url, bell_lifetime_s=0.5)
    assert await shaper.take_bells([(PATH, 1)]) == [PATH]
    for _ in range(8):
        await asyncio.sleep(0.1)
        await shaper.keep_bells([PATH])
        assert await shaper.take_bells([(PATH, 1)]) == []
    await shaper.keep_bells([])
    await shaper.close()


async def test_a_bell_whose_drain_never_came_is_forgotten(url: str) -> None:
    shaper = RedisShaper(url, bell_lifetime_s=0.1)
    assert await shaper.take_bells([(PATH, 1)]) == [PATH]
    while not await shaper.take_bells([(PATH, 1)]):
        await asyncio.sleep(0.02)
    await shaper.close()


# ── rests ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_resting_path_is_named_and_others_are_not(shaper: RedisShaper) -> None:
    await shaper.cool(PATH, seconds=60, reason="421 4.7.0 slow down")
    assert await shaper.cooling([OTHER, PATH]) == [PATH]
    assert await shaper.cooling([]) == ()


async def test_a_resting_site_rests_every_path_to_it(shaper: RedisShaper) -> None:
    elsewhere = Path(PATH.source_id, "mx.example.net")
    await shaper.cool(Path(0, PATH.site), seconds=60, reason="451 4.4.4 no host answers")
    assert await shaper.cooling([PATH, elsewhere, OTHER]) == [PATH, OTHER]


async def test_a_rest_ends_and_a_shorter_one_does_not_cut_a_longer_one(
    shaper: RedisShaper,
) -> None:
    await shaper.cool(PATH, seconds=60, reason="long")
    await shaper.cool(OTHER, seconds=0.05, reason="short")
    await shaper.cool(PATH, seconds=0.05, reason="short")
    await shaper.cool(PATH, seconds=0, reason="none")
    while OTHER in await shaper.cooling([PATH, OTHER]):
        await asyncio.sleep(0.02)
    assert await shaper.cooling([PATH, OTHER]) == [PATH]


# ── the wire ──────────────────────────────────────────────────────────────────────────────────


async def test_a_hundred_questions_of_one_turn_travel_together(
    shaper: RedisShaper, url: str
) -> None:
    await shaper.open_slots(PATH, wanted=1, limit=0)
    with redis.Redis.from_url(url) as store:
        before = store.info("clients")["connected_clients"]
        paths = [Path(number, "mx.example.com") for number in range(100, 200)]
        asked = [shaper.open_slots(path, wanted=2, limit=2) for path in paths]
        given = await asyncio.gather(*asked)
        assert [len(slots) for slots in given] == [1] * 100
        assert store.info("clients")["connected_clients"] <= before


async def test_scripts_a_server_forgot_are_loaded_again(shaper: RedisShaper, url: str) -> None:
    with redis.Redis.from_url(url) as store:
        store.script_flush()
    given, bells = await asyncio.gather(
        shaper.open_slots(PATH, wanted=1, limit=0), shaper.take_bells([(PATH, 1)])
    )
    assert len(given) == 1
    assert bells == [PATH]


async def test_a_store_that_is_away_is_named() -> None:
    shaper = RedisShaper("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable, match="redis: ") as caught:
        await shaper.open_slots(PATH, wanted=1, limit=1)
    assert caught.value.store == "redis"
    others = shaper.mark_born, lambda: shaper.cooling([PATH])
    for call in (*others, lambda: shaper.renew_slots([(PATH, "m:a:1"), (OTHER, "m:a:2")])):
        with pytest.raises(StoreUnavailable):
            await call()
    await shaper.close()


async def test_a_line_that_is_closed_under_a_call_is_a_store_that_is_away(
    shaper: RedisShaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop says RuntimeError when what was closed is written to; nobody may wait for ever."""

    async def fail(calls: object) -> None:
        raise RuntimeError("the handler is closed")

    monkeypatch.setattr(shaper, "_run", fail)
    with pytest.raises(StoreUnavailable, match="the handler is closed"):
        await shaper.open_slots(PATH, wanted=1, limit=0)


async def test_a_key_of_another_kind_fails_the_one_question_alone(
    shaper: RedisShaper, url: str
) -> None:
    with redis.Redis.from_url(url) as store:
        store.set(f"pf:slots:m:{PATH.key}", "not a set")
    asked = [shaper.open_slots(path, wanted=1, limit=1) for path in (PATH, OTHER)]
    broken, sound = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(broken, StoreUnavailable)
    assert not isinstance(sound, BaseException)
    assert len(sound) == 1


def test_the_loop_of_the_engine_is_served_as_well(url: str) -> None:
    async def use() -> int:
        shaper = RedisShaper(url)
        await shaper.mark_born()
        slots = await shaper.open_slots(PATH, wanted=2, limit=0)
        await shaper.close_slots([(PATH, slot) for slot in slots])
        grant = await shaper.grant(PATH, want=3, rate=Rate(9000, 1.0))
        await shaper.close()
        return len(slots) + grant.count

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(use()) == 5

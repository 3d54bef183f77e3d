"""Worlds, manners and scripts that cannot be are refused when they are written down."""

import re
from collections.abc import Callable

import pytest

from lab.manner import Greylist, Manner, Rule, draw, slow_banner, unknown_user
from lab.script import Closing, Script, ScriptCursor, Stage, Step
from lab.world import MxHost, World, default_world


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: unknown_user(1.2), "share must lie in 0..1"),
        (lambda: Greylist(after_s=-1), "after_s must not be negative"),
        (lambda: Greylist(after_s=1, share=2), "share must lie in 0..1"),
        (lambda: Manner(max_recipients=0), "max_recipients must be at least 1"),
        (lambda: Manner(max_messages_per_connection=0), "max_messages_per_connection"),
        (lambda: Step(None, float("nan")), "delay_s must not be negative"),
        (lambda: Step("999 no"), "not an SMTP reply line: '999 no'"),
        (lambda: Script.of(lunch=["250 ok"]), "no such stage: lunch"),
        (lambda: MxHost("mx.test", "192.0.2.1", 10), "192.0.2.1 is not a loopback address"),
        (
            lambda: World(default_world().providers * 2, (), ()),
            "domains hosted twice: accepta",
        ),
    ],
)
def test_what_cannot_be_is_named(build: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        build()


def test_a_draw_depends_on_its_arguments_alone() -> None:
    assert draw(1, "rule", "key") == draw(1, "rule", "key")
    draws = {draw(seed, name, key) for seed in (1, 2) for name in "ab" for key in "xy"}
    assert len(draws) == 8
    assert all(0 <= one < 1 for one in draws)


def test_a_rule_without_a_reply_slows_and_lets_the_next_rule_speak() -> None:
    slow = Rule("slow", Stage.RCPT, Step(None, 0.5))
    manner = Manner(rules=(slow_banner(2.0), slow, unknown_user(1.0)))
    step = manner.step_at(Stage.RCPT, seed=1, key="u@a.test")
    assert step == Step("550 5.1.1 No such user here", 0.5)
    assert manner.step_at(Stage.CONNECT, seed=1, key="c") == Step(None, 2.0)
    assert manner.step_at(Stage.DOT, seed=1, key="m") is None


def test_a_step_knows_what_a_client_reads_in_it() -> None:
    steps = [Step("250-a\n250 b"), Step(b"garbage\r\n"), Step("421 x", closing=Closing.RESET)]
    assert [step.code for step in steps] == [250, 0, 0]
    assert [step.wire for step in steps] == [b"250-a\r\n250 b\r\n", b"garbage\r\n", b""]
    assert [step.text for step in steps] == ["250-a | 250 b", "garbage", None]


def test_a_script_is_played_when_every_stage_is_used_up() -> None:
    cursor = ScriptCursor(Script.of(mail=["250 ok"], dot=[None]))
    assert cursor.take(Stage.RCPT) is None
    assert cursor.take(Stage.MAIL) == Step("250 ok")
    assert not cursor.is_played
    assert cursor.has(Stage.DOT)
    assert cursor.take(Stage.DOT) == Step(None)
    assert cursor.is_played


def test_every_domain_of_the_world_has_one_provider() -> None:
    world = default_world()
    assert [provider.key for provider in world.providers] == ["accepta", "greylisto", "refusa"]
    assert sum(provider.share for provider in world.providers) == pytest.approx(1.0)
    for provider in world.providers:
        assert len(provider.mx_hosts) == 2
        for domain in provider.domains:
            assert domain.name.endswith(".test")
            assert world.provider_of_domain(domain.name.upper() + ".") is provider
    assert world.provider_of_domain("nomail.test") is None
    assert world.provider("refusa").title == "Refusa"

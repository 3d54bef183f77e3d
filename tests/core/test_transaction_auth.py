"""We say to a relay who we are: under TLS, by a mechanism it offers, and to nobody else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.outcome import Scope
from mailcore.transaction import (
    Credentials,
    Dialogue,
    Done,
    Failed,
    FaultKind,
    Mechanism,
    Ready,
    Step,
    Transaction,
    WireMessage,
)
from mailcore.transaction.auth import LEAST_TOLD, Redaction
from tests.support.dialogue import hear, text

SECRET = "p\u00e4ss w\u00f6rd"
BEARER = f"user=me@relay.test\1auth=Bearer {SECRET}\1\1"
ALL = "AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2"


def b64(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def credentials(mechanism: Mechanism | None = None, **changes: object) -> Credentials:
    return Credentials("me@relay.test", SECRET, mechanism, **changes)  # type: ignore[arg-type]


def asked(known: Credentials, *offered: str, is_tls: bool = True) -> tuple[Dialogue, list[Step]]:
    """Return a dialogue that has read the relay's EHLO answer, and what it then does."""
    dialogue = Dialogue("me.test", wants_tls=is_tls, credentials=known)
    hear(dialogue, "220 hello")
    if is_tls:
        hear(dialogue, "250-relay.test", "250 STARTTLS")
        hear(dialogue, "220 go")
        dialogue.tls_established()
    return dialogue, hear(dialogue, "250-relay.test", *(f"250-{o}" for o in offered), "250 SIZE")


def failed(steps: list[Step]) -> tuple[int, Scope]:
    (step,) = steps
    assert isinstance(step, Failed)
    assert step.kind is FaultKind.REFUSED
    assert step.stage == "auth"
    return step.reply.code, step.scope


@pytest.mark.parametrize(
    ("mechanism", "turns"),
    [
        (Mechanism.PLAIN, [(f"AUTH PLAIN {b64(f'{chr(0)}me@relay.test{chr(0)}{SECRET}')}", "")]),
        (
            Mechanism.LOGIN,
            [
                ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
                (b64("me@relay.test"), "334 what ever you like"),
                (b64(SECRET), ""),
            ],
        ),
        (
            Mechanism.XOAUTH2,
            [(f"AUTH XOAUTH2 {b64(BEARER)}", "")],
        ),
    ],
)
def test_each_mechanism_says_its_part_and_the_session_is_ready(
    mechanism: Mechanism, turns: list[tuple[str, str]]
) -> None:
    dialogue, steps = asked(credentials(mechanism), ALL)
    for line, prompt in turns:
        assert text(steps) == f"{line}\r\n"
        assert SECRET not in repr(steps)
        assert line not in repr(steps)
        if prompt:
            steps = hear(dialogue, prompt)
    assert hear(dialogue, "235 2.7.0 welcome") == [Ready()]


def test_cram_md5_answers_the_challenge_of_rfc_2195() -> None:
    known = Credentials("tim", "tanstaaftanstaaf", Mechanism.CRAM_MD5)
    dialogue, steps = asked(known, ALL)
    assert text(steps) == "AUTH CRAM-MD5\r\n"
    challenge = b64("<1896.697170952@postoffice.reston.mci.net>")
    said = base64.b64decode(text(hear(dialogue, f"334 {challenge}")))
    assert said == b"tim b913a602c7eda7a495b4e6e7334d3890"


@pytest.mark.parametrize(
    ("offered", "is_tls", "first"),
    [
        (ALL, True, "PLAIN"),
        ("AUTH CRAM-MD5 LOGIN", True, "LOGIN"),
        (ALL, False, "CRAM-MD5"),
        ("AUTH XOAUTH2 LOGIN", False, "LOGIN"),
    ],
)
def test_the_best_mechanism_goes_first_and_a_password_is_no_token(
    offered: str, is_tls: bool, first: str
) -> None:
    known = credentials(allows_clear=not is_tls)
    assert text(asked(known, offered, is_tls=is_tls)[1]).split()[:2] == ["AUTH", first]


def test_credentials_do_not_travel_in_clear() -> None:
    dialogue, steps = asked(credentials(), ALL, is_tls=False)
    assert failed(steps) == (451, Scope.HOST)
    assert dialogue.is_over


@pytest.mark.parametrize("offered", [(), ("AUTH GSSAPI",), ("AUTH XOAUTH2",)])
def test_a_relay_that_offers_nothing_we_can_use_is_the_hosts(offered: tuple[str, ...]) -> None:
    assert failed(asked(credentials(), *offered)[1]) == (451, Scope.HOST)


@pytest.mark.parametrize(
    ("said", "scope"),
    [
        ("535 5.7.8 wrong", Scope.SOURCE),
        ("454 4.7.0 not now", Scope.HOST),
        ("421 4.7.0 bye", Scope.HOST),
        ("550 5.7.1 go away", Scope.HOST),
    ],
)
def test_a_refused_authentication_is_about_us(said: str, scope: Scope) -> None:
    dialogue, _ = asked(credentials(), ALL)
    assert failed(hear(dialogue, said)) == (int(said[:3]), scope)


@pytest.mark.parametrize("code", [504, 534, 538, 502])
def test_a_mechanism_that_is_not_taken_gives_way_to_the_next(code: int) -> None:
    dialogue, _ = asked(credentials(), ALL)
    assert text(hear(dialogue, f"{code} 5.5.4 not this one")) == "AUTH LOGIN\r\n"
    assert text(hear(dialogue, f"{code} 5.5.4 nor this")) == "AUTH CRAM-MD5\r\n"
    assert failed(hear(dialogue, f"{code} 5.5.4 no")) == (code, Scope.HOST)


def test_a_prompt_that_makes_no_sense_is_cancelled_and_the_next_one_tried() -> None:
    dialogue, _ = asked(credentials(), "AUTH PLAIN LOGIN")
    assert text(hear(dialogue, "334 again")) == "*\r\n"
    assert text(hear(dialogue, "501 5.7.0 cancelled")) == "AUTH LOGIN\r\n"
    for prompt in ("334 user", "334 password"):
        hear(dialogue, prompt)
    assert text(hear(dialogue, "334 and your mother's name")) == "*\r\n"
    assert failed(hear(dialogue, "501 cancelled")) == (451, Scope.HOST)


@pytest.mark.parametrize("challenge", ["no base64!", "=====", "YQ"])
def test_a_damaged_challenge_gives_nothing_away(challenge: str) -> None:
    dialogue, _ = asked(credentials(Mechanism.CRAM_MD5), ALL)
    assert text(hear(dialogue, f"334 {challenge}")) == "*\r\n"


@pytest.mark.parametrize("said", ["334 more", "235 2.7.0 welcome all the same", "350 what"])
def test_a_yes_to_what_was_cancelled_is_believed_by_nobody(said: str) -> None:
    dialogue, _ = asked(credentials(Mechanism.PLAIN), ALL)
    hear(dialogue, "334 again")
    (step,) = hear(dialogue, said)
    assert isinstance(step, Failed)
    assert step.kind is FaultKind.BROKEN


def test_a_refused_token_asks_for_its_reply() -> None:
    dialogue, _ = asked(credentials(Mechanism.XOAUTH2), ALL)
    assert text(hear(dialogue, f"334 {b64('{}')}")) == "\r\n"
    assert failed(hear(dialogue, "535 5.7.8 expired")) == (535, Scope.SOURCE)


def test_a_long_token_waits_for_the_go_ahead() -> None:
    known = Credentials("me@relay.test", "t" * 2000, Mechanism.XOAUTH2)
    dialogue, steps = asked(known, ALL)
    assert text(steps) == "AUTH XOAUTH2\r\n"
    assert len(text(hear(dialogue, "334 "))) > 2600
    assert hear(dialogue, "235 ok") == [Ready()]


PLAIN = b64(f"\0me@relay.test\0{SECRET}")
FORMS = [SECRET, b64(SECRET), PLAIN, PLAIN.upper(), PLAIN[:-9], PLAIN[5:20], b64(BEARER)]


@pytest.mark.parametrize("said", ["535 5.7.8", "454 4.7.0", "421 4.7.0", "550 5.7.1", "501 5.5.4"])
@pytest.mark.parametrize("form", FORMS)
def test_a_server_that_repeats_the_secret_is_not_quoted(said: str, form: str) -> None:
    mechanism = Mechanism.XOAUTH2 if form == b64(BEARER) else Mechanism.PLAIN
    dialogue, _ = asked(credentials(mechanism), ALL)
    (step,) = hear(dialogue, f"{said} wrong: <{form}>.")
    assert isinstance(step, Failed)
    assert str(step.reply) == f"{said} wrong: <***>."


def test_what_was_said_at_a_prompt_is_not_quoted_either() -> None:
    dialogue, _ = asked(credentials(Mechanism.LOGIN), ALL)
    hear(dialogue, "334 user")
    hear(dialogue, "334 password")
    (step,) = hear(dialogue, f"535 5.7.8 no {b64('me@relay.test')}/{b64(SECRET)[:12]}")
    assert isinstance(step, Failed)
    assert str(step.reply) == "535 5.7.8 no ***/***"


def test_a_command_that_comes_back_as_it_is_is_not_quoted() -> None:
    dialogue, steps = asked(credentials(), ALL)
    (step,) = hear(dialogue, text(steps).strip(), "535 5.7.8 no")
    assert isinstance(step, Failed)
    assert str(step.reply) == "451 4.5.0 protocol error: no SMTP reply"


def test_a_server_that_repeats_the_secret_later_is_not_quoted() -> None:
    dialogue, _ = asked(credentials(), ALL)
    hear(dialogue, f"235 2.7.0 welcome, {SECRET}")
    transaction = Transaction(WireMessage("a@me.test", ("b@peer.test",), b"x: y\r\n\r\n"))
    dialogue.begin(transaction)
    steps = hear(dialogue, f"550 5.7.1 {PLAIN} may not send")
    done = next(step for step in steps if isinstance(step, Done))
    (verdict,) = done.transaction.verdicts
    assert verdict is not None
    assert str(verdict.reply) == "550 5.7.1 *** may not send"


@given(st.text(min_size=1, max_size=80), st.integers(0, 100), st.integers(LEAST_TOLD, 100))
def test_no_piece_of_a_secret_is_told(secret: str, start: int, size: int) -> None:
    redaction = Redaction(Credentials("me", secret))
    for form in (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")):
        piece = form[start : start + size]
        if len(piece) >= LEAST_TOLD:
            assert piece not in redaction.clean(b"<" + piece + b">")
        assert redaction.clean(b"") == b""


def test_the_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(credentials())

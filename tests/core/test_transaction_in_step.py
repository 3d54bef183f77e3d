"""Out of step with a server, nobody bounces by what it said to another or of a command."""

from __future__ import annotations

import pytest

from mailcore.outcome import Scope
from mailcore.transaction import Done, Failed
from tests.support.dialogue import ONE_BY_ONE, hear, message, opened, text, verdicts


@pytest.mark.parametrize(
    "said",
    [
        # A reply was lost, or came twice; the truth is that `a` was taken.
        ["250 ok", "550 5.1.1 b is nobody", "354 go"],
        ["250 ok", "250 ok", "250 a is taken", "550 5.1.1 b is nobody"],
        # The truth is that `b` was taken.
        ["250 ok", "550 5.1.1 a is nobody", "550 5.1.1 a is nobody", "250 b is taken"],
    ],
)
def test_out_of_step_no_refusal_is_anybodys(said: list[str]) -> None:
    dialogue = opened()
    transaction = message("a", "b")
    dialogue.begin(transaction)
    assert isinstance(hear(dialogue, *said)[-1], Failed)
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [None, None]


def test_a_refusal_at_data_for_many_waits_for_a_reset_to_be_answered() -> None:
    dialogue = opened()
    transaction = message("a", "b")
    dialogue.begin(transaction)
    said = ["250 ok", "250 ok", "250 a is taken", "550 b is nobody"]
    assert text(hear(dialogue, *said)) == "RSET\r\n"
    # DATA was not refused at all.
    assert isinstance(hear(dialogue, "354 go")[-1], Failed)
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [None, None]


def test_a_reply_that_comes_before_its_command_is_out_of_step() -> None:
    dialogue = opened(ONE_BY_ONE)
    transaction = message("a", "b")
    dialogue.begin(transaction)
    hear(dialogue, "250 ok")
    assert isinstance(hear(dialogue, "550 a is nobody", "550 a is nobody")[-1], Failed)
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [None, None]


def test_behind_354_a_refusal_of_the_envelope_stands() -> None:
    dialogue = opened()
    transaction = message("a", "b")
    dialogue.begin(transaction)
    hear(dialogue, "250 ok", "550 5.1.1 no", "250 ok", "354 go")
    dialogue.dot_sent(transaction)
    assert isinstance(hear(dialogue, "rubbish")[-1], Failed)
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [(550, "rcpt", Scope.RECIPIENT), None]


@pytest.mark.parametrize("code", [500, 502, 503])
def test_a_rcpt_that_is_not_understood_bounces_nobody(code: int) -> None:
    dialogue = opened()
    transaction = message("a", "b")
    dialogue.begin(transaction)
    failed = hear(dialogue, "250 ok", f"{code} 5.5.1 bad sequence of commands")[-1]
    assert isinstance(failed, Failed)
    assert failed.reply.is_transient
    assert f"{code} 5.5.1 bad sequence of commands to RCPT" in failed.reply.text
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [None, None]


@pytest.mark.parametrize("code", [501, 504])
def test_a_rcpt_whose_address_is_not_understood_is_refused(code: int) -> None:
    dialogue = opened()
    transaction = message()
    dialogue.begin(transaction)
    hear(dialogue, "250 ok", f"{code} 5.1.3 what", "503 nobody")
    assert verdicts(transaction) == [(code, "rcpt", Scope.RECIPIENT)]


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504])
def test_a_data_that_is_not_understood_bounces_nobody(code: int) -> None:
    dialogue = opened()
    transaction = message()
    dialogue.begin(transaction)
    assert isinstance(hear(dialogue, "250 ok", "250 ok", f"{code} what")[-1], Failed)
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [None]


# ── the lone dot ──────────────────────────────────────────────────────────────────────────────


def test_no_dot_goes_to_whom_a_server_took_without_the_mail() -> None:
    dialogue = opened()
    transaction = message()
    dialogue.begin(transaction)
    steps = hear(dialogue, "451 not now", "250 a is taken", "354 go")
    assert text(steps) == ""
    assert steps[0] == Done(transaction)
    assert isinstance(steps[1], Failed)
    assert verdicts(transaction) == [(451, "mail", Scope.MESSAGE)]


def test_no_dot_goes_to_whom_a_server_may_have_kept_in_spite_of_a_reset() -> None:
    dialogue = opened()
    dialogue.begin(message())
    hear(dialogue, "250 ok", "250 ok", "451 no DATA now")
    second = message("b")
    assert text(dialogue.begin(second)).startswith("RSET\r\n")
    steps = hear(dialogue, "502 no RSET", "503 nested MAIL", "550 b is nobody", "354 go")
    assert text(steps) == ""
    assert isinstance(steps[-1], Failed)

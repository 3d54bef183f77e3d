"""Content in a chunk: sent to somebody who was accepted, and its answer taken for no other's."""

from __future__ import annotations

import pytest

from mailcore.outcome import Scope
from mailcore.transaction import (
    Dialogue,
    Done,
    Failed,
    FaultKind,
    SendContent,
    Stage,
    Transaction,
    WireMessage,
)
from tests.support.dialogue import (
    CHUNKED,
    CHUNKED_ONE_BY_ONE,
    hear,
    message,
    opened,
    text,
    verdicts,
)

MAIL = "MAIL FROM:<from@me.test>\r\n"
RCPT = "RCPT TO:<%s@peer.test>\r\n"
ENVELOPE = ("250 2.1.0 ok", "250 2.1.5 ok")


def chunk_sent(dialogue: Dialogue, *said: str) -> Transaction:
    """Return a transaction whose chunk is on its way."""
    transaction = message()
    dialogue.begin(transaction)
    assert SendContent(transaction) in hear(dialogue, *(said or ENVELOPE))
    dialogue.dot_sent(transaction)
    return transaction


def test_a_chunk_follows_the_answers_to_the_envelope_and_no_data_is_said() -> None:
    dialogue = opened(CHUNKED)
    transaction = message("a", "b")
    assert text(dialogue.begin(transaction)) == MAIL + RCPT % "a" + RCPT % "b"
    assert hear(dialogue, "250 2.1.0 ok", "550 5.1.1 no") == []
    (step,) = hear(dialogue, "250 2.1.5 ok")
    assert step == SendContent(transaction)
    assert isinstance(step, SendContent)
    assert step.frame() == (b"BDAT 7 LAST\r\n", b"hello\r\n", b"")
    dialogue.dot_sent(transaction)
    assert dialogue.awaits is Stage.DOT
    assert hear(dialogue, "250 2.0.0 ok") == [Done(transaction)]
    assert verdicts(transaction) == [(550, "rcpt", Scope.RECIPIENT), (250, "dot", Scope.MESSAGE)]


def test_without_pipelining_a_chunk_saves_the_wait_for_354() -> None:
    dialogue = opened(CHUNKED_ONE_BY_ONE)
    transaction = message()
    assert text(dialogue.begin(transaction)) == MAIL
    assert text(hear(dialogue, "250 2.1.0 ok")) == RCPT % "a"
    assert hear(dialogue, "250 2.1.5 ok") == [SendContent(transaction)]


@pytest.mark.parametrize(
    "ehlo", ["250-x\r\n250-PIPELINING\r\n250 CHUNKING", CHUNKED.replace("CHUNKING", "BURL")]
)
def test_no_chunk_goes_where_its_answer_could_not_be_told_from_another(ehlo: str) -> None:
    assert text(opened(ehlo).begin(message())).endswith("DATA\r\n")


def test_no_chunk_goes_where_it_is_not_allowed() -> None:
    dialogue = Dialogue("me.test", wants_tls=False, allows_chunking=False)
    hear(dialogue, "220 hello")
    hear(dialogue, CHUNKED)
    assert text(dialogue.begin(message())).endswith("DATA\r\n")


@pytest.mark.parametrize("ehlo", [CHUNKED, CHUNKED_ONE_BY_ONE])
def test_nothing_is_sent_for_nobody_and_the_envelope_is_dropped(ehlo: str) -> None:
    dialogue = opened(ehlo)
    first, second = message(), message()
    dialogue.begin(first)
    hear(dialogue, "250 2.1.0 ok")
    assert hear(dialogue, "550 5.1.1 no") == [Done(first)]
    assert text(dialogue.begin(second)).startswith("RSET\r\n")


def test_a_recipient_taken_without_its_sender_gets_nothing() -> None:
    dialogue = opened(CHUNKED)
    first = message()
    dialogue.begin(first)
    assert hear(dialogue, "451 4.3.0 not now", "250 2.1.5 ok") == [Done(first)]
    assert verdicts(first) == [(451, "mail", Scope.MESSAGE)]
    assert text(dialogue.begin(message())).startswith("RSET\r\n")


@pytest.mark.parametrize("code", [452, 554])
def test_a_refused_chunk_is_about_its_message_and_the_next_begins_anew(code: int) -> None:
    dialogue = opened(CHUNKED)
    first = chunk_sent(dialogue)
    assert hear(dialogue, f"{code} {code // 100}.6.0 no") == [Done(first)]
    assert verdicts(first) == [(code, "dot", Scope.MESSAGE)]
    assert text(dialogue.begin(message())) == "RSET\r\n" + MAIL + RCPT % "a"


def test_a_mail_refused_for_nesting_behind_a_refused_chunk_is_said_again() -> None:
    dialogue = opened(CHUNKED)
    first = chunk_sent(dialogue)
    second = message("b")
    dialogue.begin(second)
    # The server has not closed the first transaction: it takes `b` into that.
    steps = hear(dialogue, "554 5.6.0 no", "503 5.5.1 nested MAIL", "250 2.1.5 ok")
    assert steps[0] == Done(first)
    assert text(steps) == "RSET\r\n" + MAIL + RCPT % "b"
    assert verdicts(second) == [None]
    hear(dialogue, "250 2.0.0 reset", *ENVELOPE)
    dialogue.dot_sent(second)
    assert hear(dialogue, "250 2.0.0 ok") == [Done(second)]


def test_a_mail_that_is_refused_twice_is_refused() -> None:
    dialogue = opened(CHUNKED)
    chunk_sent(dialogue)
    second = message("b")
    dialogue.begin(second)
    hear(dialogue, "554 5.6.0 no", "503 5.5.1 no", "503 5.5.1 no")
    assert hear(dialogue, "250 reset", "503 5.5.1 no", "503 5.5.1 no") == [Done(second)]
    assert verdicts(second) == [(503, "mail", Scope.HOST)]


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504])
def test_a_server_that_offers_bdat_and_does_not_know_it_bounces_nobody(code: int) -> None:
    dialogue = opened(CHUNKED)
    first = chunk_sent(dialogue)
    done, failed = hear(dialogue, f"{code} 5.5.1 what")
    assert done == Done(first)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.scope) == (FaultKind.BROKEN, Scope.SESSION)
    assert verdicts(first) == [(451, "dot", Scope.SESSION)]
    assert dialogue.is_chunking_broken
    assert dialogue.break_off() == []


@pytest.mark.parametrize("code", [502, 552])
def test_a_refusal_in_the_midst_of_a_chunk_decides_unless_it_is_about_bdat(code: int) -> None:
    dialogue = opened(CHUNKED)
    transaction = message()
    dialogue.begin(transaction)
    hear(dialogue, *ENVELOPE)
    done, failed = hear(dialogue, f"{code} 5.3.4 no")
    assert done == Done(transaction)
    assert isinstance(failed, Failed)
    told = (552, "data", Scope.MESSAGE) if code == 552 else (451, "data", Scope.SESSION)
    assert verdicts(transaction) == [told]
    assert dialogue.is_chunking_broken is (code == 502)


@pytest.mark.parametrize("said", ["250 2.1.5 ok", "250 2.1.0 ok", "221 2.0.0 bye", "354 go"])
def test_an_answer_that_was_meant_for_another_command_accepts_no_chunk(said: str) -> None:
    dialogue = opened(CHUNKED)
    transaction = chunk_sent(dialogue)
    (failed,) = hear(dialogue, said)
    assert isinstance(failed, Failed)
    assert failed.reply.is_transient
    assert dialogue.break_off() == [transaction]
    # Whether the server has it nobody knows.
    assert (transaction.stage, transaction.is_dot_sent) == (Stage.DOT, True)
    assert verdicts(transaction) == [None]


def test_one_recipients_refusal_out_of_step_bounces_no_other() -> None:
    dialogue = opened(CHUNKED)
    transaction = message("a", "b")
    dialogue.begin(transaction)
    hear(dialogue, "250 2.1.0 ok", "250 2.1.0 twice", "250 2.1.5 ok")
    dialogue.dot_sent(transaction)
    assert isinstance(hear(dialogue, "550 5.1.1 b is nobody")[-1], Failed)
    assert verdicts(transaction) == [None, None]


@pytest.mark.parametrize("said", ["250 2.1.5 c is taken", "550 5.1.1 c is nobody", "421 4.3.2 bye"])
def test_where_all_are_refused_a_reset_shows_whether_they_were_meant(said: str) -> None:
    dialogue = opened(CHUNKED)
    transaction = message("a", "b")
    dialogue.begin(transaction)
    steps = hear(dialogue, "250 2.1.0 ok", "550 5.1.1 a is nobody", "550 5.1.1 a is nobody")
    assert text(steps) == "RSET\r\n"
    assert Done(transaction) not in steps
    steps = hear(dialogue, said)
    if said.startswith("421"):
        assert steps[0] == Done(transaction)
        return
    assert isinstance(steps[-1], Failed)
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [None, None]
    assert transaction.stage is Stage.RCPT


@pytest.mark.parametrize("said", ["250 2.0.0 reset", "250 ok", "502 5.5.1 no RSET here"])
def test_refusals_stand_once_the_reset_behind_them_is_answered(said: str) -> None:
    dialogue = opened(CHUNKED)
    transaction = message("a", "b")
    dialogue.begin(transaction)
    hear(dialogue, "250 2.1.0 ok", "550 5.1.1 no", "450 4.2.1 later")
    assert hear(dialogue, said) == [Done(transaction)]
    assert [known and known[0] for known in verdicts(transaction)] == [550, 450]
    assert not text(dialogue.begin(message())).startswith("RSET")


def test_one_refusal_in_the_midst_of_a_chunk_for_many_is_another_commands() -> None:
    dialogue = opened(CHUNKED)
    transaction = message("a", "b")
    dialogue.begin(transaction)
    said = ["250 2.1.0 ok", "250 2.1.0 twice", "250 2.1.5 a is taken", "550 5.1.1 b is nobody"]
    assert isinstance(hear(dialogue, *said)[-1], Failed)
    assert dialogue.break_off() == [transaction]
    assert verdicts(transaction) == [None, None]


def test_a_late_word_on_the_one_recipient_counts() -> None:
    dialogue = opened(CHUNKED)
    transaction = chunk_sent(dialogue)
    hear(dialogue, "550 5.1.1 nobody after all")
    assert verdicts(transaction) == [(550, "dot", Scope.MESSAGE)]


def test_a_chunk_keeps_bare_line_ends_and_gets_its_last_one() -> None:
    content = b"a\n.\nb\r.\rc\r\n.\r\nd"
    transaction = Transaction(WireMessage("a@me.test", ("b@peer.test",), content))
    transaction.is_chunked = True
    head, body, mark = SendContent(transaction).frame()
    assert (head, body, mark) == (b"BDAT 17 LAST\r\n", content + b"\r\n", b"")

"""The dialogue gives each recipient the reply that was meant for it, whatever the server says."""

from __future__ import annotations

import pytest

from mailcore.outcome import Scope
from mailcore.transaction import (
    Dialogue,
    Done,
    Extensions,
    Failed,
    FaultKind,
    Ready,
    SendContent,
    Stage,
    StartTls,
    Transaction,
    WireMessage,
)
from tests.support.dialogue import ONE_BY_ONE, PIPELINED, hear, message, opened, text, verdicts

# ── opening ───────────────────────────────────────────────────────────────────────────────────


def test_an_ehlo_answer_is_read_whatever_its_case_and_order() -> None:
    lines = (b"peer.test SIZE", b"size 12", b"Pipelining", b"8bitmime", b"SMTPUTF8", b"starttls")
    assert Extensions.parse(lines) == Extensions(True, True, True, True, 12)


@pytest.mark.parametrize(
    ("line", "size"),
    [(b"SIZE", 0), (b"SIZE 0", 0), (b"SIZE x", 0), (b"SIZE \xc2\xb2", 0), (b"SIZED 5", None)],
)
def test_a_size_that_is_no_number_limits_nothing(line: bytes, size: int | None) -> None:
    assert Extensions.parse((b"peer.test", line)).size == size


def test_a_server_that_refuses_helo_too_refuses_the_session() -> None:
    dialogue = Dialogue("me.test", wants_tls=True)
    assert text(hear(dialogue, "220 hello")) == "EHLO me.test\r\n"
    assert text(hear(dialogue, "500 what")) == "HELO me.test\r\n"
    (failed,) = hear(dialogue, "550 no")
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.stage, failed.scope) == (FaultKind.REFUSED, "ehlo", Scope.HOST)


def test_what_follows_the_answer_to_starttls_in_clear_is_forgotten() -> None:
    dialogue = Dialogue("me.test", wants_tls=True)
    hear(dialogue, "220 hello")
    assert text(hear(dialogue, "250-peer.test", "250 STARTTLS")) == "STARTTLS\r\n"
    assert hear(dialogue, "220 go", "250 PIPELINING", "421 bye", "what") == [StartTls()]
    assert not dialogue.is_over
    assert dialogue.extensions.starttls
    assert text(dialogue.tls_established()) == "EHLO me.test\r\n"
    assert dialogue.extensions == Extensions()
    assert hear(dialogue, PIPELINED) == [Ready()]
    assert dialogue.extensions.pipelining


@pytest.mark.parametrize("stage", [0, 1])
def test_421_while_opening_is_the_hosts(stage: int) -> None:
    dialogue = Dialogue("me.test", wants_tls=False)
    if stage:
        hear(dialogue, "220 hello")
    (failed,) = hear(dialogue, "421 4.3.2 not now")
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.scope) == (FaultKind.REFUSED, Scope.HOST)
    assert failed.stage == ("ehlo" if stage else "banner")


def test_a_server_without_ehlo_is_ready_after_helo() -> None:
    dialogue = Dialogue("me.test", wants_tls=True)
    hear(dialogue, "220 hello")
    hear(dialogue, "502 what")
    assert hear(dialogue, "250 old.test") == [Ready()]
    assert dialogue.extensions == Extensions()


@pytest.mark.parametrize("requires_tls", [False, True])
def test_a_refused_starttls_is_borne_unless_tls_is_required(requires_tls: bool) -> None:
    dialogue = Dialogue("me.test", wants_tls=True, requires_tls=requires_tls)
    hear(dialogue, "220 hello")
    hear(dialogue, "250-peer.test", "250 STARTTLS")
    (step,) = hear(dialogue, "454 4.7.0 not now")
    if requires_tls:
        assert isinstance(step, Failed)
        assert (step.kind, step.reply.code) == (FaultKind.TLS, 454)
    else:
        assert step == Ready()


@pytest.mark.parametrize("requires_tls", [False, True])
def test_tls_that_is_not_offered_is_missed_only_where_it_is_required(requires_tls: bool) -> None:
    dialogue = Dialogue("me.test", wants_tls=True, requires_tls=requires_tls)
    hear(dialogue, "220 hello")
    (step,) = hear(dialogue, "250 peer.test")
    assert isinstance(step, Failed if requires_tls else Ready)


def test_a_refused_ehlo_under_tls_is_no_reason_for_helo() -> None:
    dialogue = Dialogue("me.test", wants_tls=True)
    hear(dialogue, "220 hello")
    hear(dialogue, "250-peer.test", "250 STARTTLS")
    hear(dialogue, "220 go")
    dialogue.tls_established()
    (failed,) = hear(dialogue, "502 what")
    assert isinstance(failed, Failed)
    assert failed.stage == "ehlo"


def test_a_garbled_greeting_is_the_hosts() -> None:
    dialogue = Dialogue("me.test", wants_tls=False)
    (failed,) = hear(dialogue, "HTTP/1.1 400 Bad Request")
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.stage, failed.scope) == (FaultKind.BROKEN, "banner", Scope.HOST)
    assert failed.reply.is_transient


# ── transactions ──────────────────────────────────────────────────────────────────────────────


def test_without_pipelining_each_command_waits_for_its_answer() -> None:
    dialogue = opened(ONE_BY_ONE)
    transaction = message("a", "b")
    assert text(dialogue.begin(transaction)) == "MAIL FROM:<from@me.test>\r\n"
    assert text(hear(dialogue, "250 ok")) == "RCPT TO:<a@peer.test>\r\n"
    assert text(hear(dialogue, "550 5.1.1 no")) == "RCPT TO:<b@peer.test>\r\n"
    assert text(hear(dialogue, "251 forwards")) == "DATA\r\n"
    assert hear(dialogue, "354 go") == [SendContent(transaction)]
    dialogue.dot_sent(transaction)
    assert dialogue.awaits is Stage.DOT
    assert hear(dialogue, "250 2.0.0 ok") == [Done(transaction)]
    assert verdicts(transaction) == [
        (550, "rcpt", Scope.RECIPIENT),
        (250, "dot", Scope.MESSAGE),
    ]


def test_without_pipelining_the_next_transaction_waits_for_the_dots_answer() -> None:
    dialogue = opened(ONE_BY_ONE)
    first, second = message(), message()
    dialogue.begin(first)
    hear(dialogue, "250 ok")
    hear(dialogue, "250 ok")
    hear(dialogue, "354 go")
    dialogue.dot_sent(first)
    assert dialogue.begin(second) == []
    steps = hear(dialogue, "250 ok")
    assert steps[0] == Done(first)
    assert text(steps) == "MAIL FROM:<from@me.test>\r\n"


def test_without_pipelining_421_writes_nothing_more_and_leaves_the_next_undecided() -> None:
    dialogue = opened(ONE_BY_ONE)
    first, second = message(), message()
    dialogue.begin(first)
    for line in ("250 ok", "250 ok", "354 go"):
        hear(dialogue, line)
    dialogue.dot_sent(first)
    dialogue.begin(second)
    steps = hear(dialogue, "421 4.3.2 bye")
    assert text(steps) == ""
    assert verdicts(first) == [(421, "dot", Scope.SESSION)]
    assert dialogue.break_off() == [second]
    assert not second.is_dot_sent


@pytest.mark.parametrize(
    ("wire", "code", "enhanced"),
    [
        (WireMessage("a@me.test", ("ü@peer.test",), b"x", needs_smtputf8=True), 550, "5.6.7"),
        (WireMessage("a@me.test", ("b@peer.test",), b"x" * 1001), 552, "5.3.4"),
        (WireMessage("a@me.test", ("b@peer.test\r\nDATA",), b"x"), 553, "5.1.3"),
        (WireMessage("a@me.test>\nX:", ("b@peer.test",), b"x"), 553, "5.1.3"),
    ],
)
def test_what_the_server_cannot_take_is_answered_by_us(
    wire: WireMessage, code: int, enhanced: str
) -> None:
    dialogue = opened()
    transaction = Transaction(wire)
    assert dialogue.begin(transaction) == [Done(transaction)]
    (known,) = transaction.verdicts
    assert known is not None
    assert (known.reply.code, str(known.reply.enhanced)) == (code, enhanced)
    assert known.reply.is_local
    assert known.stage == "mail"
    assert dialogue.is_ready


def test_parameters_follow_what_is_offered() -> None:
    dialogue = opened("250-peer.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8")
    wire = WireMessage("a@me.test", ("ü@peer.test",), b"x", needs_8bit=True, needs_smtputf8=True)
    steps = dialogue.begin(Transaction(wire))
    assert text(steps).startswith("MAIL FROM:<a@me.test> BODY=8BITMIME SMTPUTF8\r\n")


@pytest.mark.parametrize(("code", "scope"), [(451, Scope.MESSAGE), (550, Scope.HOST)])
@pytest.mark.parametrize("ehlo", [PIPELINED, ONE_BY_ONE])
def test_a_refused_mail_is_everybodys_and_a_5yz_is_about_us(
    ehlo: str, code: int, scope: Scope
) -> None:
    dialogue = opened(ehlo)
    transaction = message("a", "b")
    dialogue.begin(transaction)
    rest = ["503 no", "503 no", "503 no"] if ehlo == PIPELINED else []
    assert hear(dialogue, f"{code} x", *rest) == [Done(transaction)]
    assert verdicts(transaction) == [(code, "mail", scope)] * 2
    assert dialogue.is_ready


def test_without_pipelining_a_transaction_without_taker_is_reset_before_the_next() -> None:
    dialogue = opened(ONE_BY_ONE)
    first, second = message(), message()
    dialogue.begin(first)
    hear(dialogue, "250 ok")
    assert hear(dialogue, "552 5.2.2 full") == [Done(first)]
    assert str(first.verdicts[0] and first.verdicts[0].reply) == "452 4.2.2 full"
    assert text(dialogue.begin(second)) == "RSET\r\n"
    assert text(hear(dialogue, "250 ok")) == "MAIL FROM:<from@me.test>\r\n"


@pytest.mark.parametrize("said", ["421 4.3.2 bye", "250 ok"])
def test_the_answer_to_a_lone_dot_counts_for_nobody(said: str) -> None:
    dialogue = opened()
    transaction = message()
    dialogue.begin(transaction)
    steps = hear(dialogue, "250 ok", "550 5.1.1 no", "354 go")
    assert text(steps) == ".\r\n"
    assert Done(transaction) in steps
    hear(dialogue, said)
    assert verdicts(transaction) == [(550, "rcpt", Scope.RECIPIENT)]
    assert dialogue.is_ready == said.startswith("250")


def test_the_reset_after_a_transaction_without_taker_goes_with_the_next_group() -> None:
    dialogue = opened()
    first, second = message(), message()
    dialogue.begin(first)
    hear(dialogue, "250 ok", "550 no", "503 5.5.1 nobody")
    steps = dialogue.begin(second)
    assert text(steps).startswith("RSET\r\nMAIL FROM:<from@me.test> SIZE=7\r\n")
    hear(dialogue, "250 reset", "250 ok", "250 ok", "354 go")
    dialogue.dot_sent(second)
    hear(dialogue, "250 ok")
    assert verdicts(second) == [(250, "dot", Scope.MESSAGE)]


def test_a_broken_line_tells_where_each_transaction_stood() -> None:
    dialogue = opened()
    first, second = message("a"), message("b", "c")
    dialogue.begin(first)
    hear(dialogue, "250 ok", "250 ok", "354 go")
    dialogue.dot_sent(first)
    dialogue.begin(second)
    assert dialogue.break_off() == [first, second]
    assert (first.stage, first.is_dot_sent) == (Stage.DOT, True)
    assert (second.stage, second.is_dot_sent) == (Stage.MAIL, False)
    assert dialogue.is_over
    assert hear(dialogue, "250 ok") == []


def test_a_line_lost_while_content_is_sent_was_lost_before_the_dot() -> None:
    dialogue = opened()
    transaction = message("a", "b")
    dialogue.begin(transaction)
    hear(dialogue, "250 ok", "550 no", "250 ok", "354 go")
    assert dialogue.break_off() == [transaction]
    assert (transaction.stage, transaction.is_dot_sent) == (Stage.DATA, False)
    assert verdicts(transaction) == [(550, "rcpt", Scope.RECIPIENT), None]


@pytest.mark.parametrize(
    ("said", "stage"),
    [
        (["354 go"], Stage.MAIL),
        (["250 ok", "334 x"], Stage.RCPT),
        (["250 ok", "250 ok", "250 ok"], Stage.DATA),
        (["250 ok", "250 ok", "350 x"], Stage.DATA),
        (["250 ok", "rubbish"], Stage.RCPT),
    ],
)
def test_an_answer_out_of_place_breaks_the_line_and_bounces_nobody(
    said: list[str], stage: Stage
) -> None:
    dialogue = opened()
    transaction = message()
    dialogue.begin(transaction)
    steps = hear(dialogue, *said)
    failed = steps[-1]
    assert isinstance(failed, Failed)
    assert failed.kind is FaultKind.BROKEN
    assert failed.reply.is_transient
    assert failed.reply.is_local
    assert dialogue.break_off() == [transaction]
    assert transaction.stage is stage
    assert verdicts(transaction) == [None]


def test_an_answer_to_no_command_breaks_the_line() -> None:
    (failed,) = hear(opened(), "250 unasked")
    assert isinstance(failed, Failed)
    assert "no command" in failed.reply.text


def test_a_refusal_in_the_midst_of_content_decides() -> None:
    dialogue = opened()
    transaction = message()
    dialogue.begin(transaction)
    hear(dialogue, "250 ok", "250 ok", "354 go")
    done, failed = hear(dialogue, "552 5.3.4 too much")
    assert done == Done(transaction)
    assert isinstance(failed, Failed)
    assert verdicts(transaction) == [(552, "data", Scope.MESSAGE)]
    assert dialogue.break_off() == []


def test_a_yes_in_the_midst_of_content_is_believed_by_nobody() -> None:
    dialogue = opened()
    transaction = message()
    dialogue.begin(transaction)
    hear(dialogue, "250 ok", "250 ok", "354 go", "250 got it all")
    assert verdicts(transaction) == [None]
    assert dialogue.break_off() == [transaction]
    assert not transaction.is_dot_sent

"""The envelope says what the message needs, where it is offered; elsewhere the message waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dsn import xtext
from mailcore.outcome import Scope
from mailcore.transaction import (
    Dialogue,
    Done,
    DsnRequest,
    DsnReturn,
    Extensions,
    Notify,
    Transaction,
    WireMessage,
)
from tests.support.dialogue import ONE_BY_ONE, hear, message, opened, text, verdicts

ASKED = DsnRequest(
    envid="a+b=c d",
    returns=DsnReturn.HEADERS,
    notify=frozenset({Notify.DELAY, Notify.FAILURE}),
    original_recipients=("a+x@old.test", ""),
)


def offering(*keywords: str) -> Dialogue:
    """Return an open dialogue with a server that offers these and PIPELINING."""
    return opened("\r\n".join([*(f"250-{each}" for each in ("x", *keywords)), "250 PIPELINING"]))


def commands(dialogue: Dialogue, **changes: object) -> list[str]:
    """Return the lines of the envelope of a message with these properties."""
    values = {
        "reverse_path": "from@me.test",
        "forward_paths": ("a@peer.test", "b@peer.test"),
        "content": b"x\r\n",
    }
    wire = WireMessage(**(values | changes))  # type: ignore[arg-type]
    return text(dialogue.begin(Transaction(wire))).splitlines()


def refused(dialogue: Dialogue, **changes: object) -> str:
    """Return what we say ourselves to a message with these properties."""
    values = {"reverse_path": "f@me.test", "forward_paths": ("a@peer.test",), "content": b"x\r\n"}
    transaction = Transaction(WireMessage(**(values | changes)))  # type: ignore[arg-type]
    assert dialogue.begin(transaction) == [Done(transaction)]
    (known,) = transaction.verdicts
    assert known is not None
    assert known.reply.is_local
    assert dialogue.is_ready
    return str(known.reply)


# ── DSN ───────────────────────────────────────────────────────────────────────────────────────


def test_reports_are_asked_for_where_dsn_is_offered() -> None:
    assert commands(offering("DSN"), dsn=ASKED) == [
        "MAIL FROM:<from@me.test> RET=HDRS ENVID=a+2Bb+3Dc+20d",
        "RCPT TO:<a@peer.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+2Bx@old.test",
        "RCPT TO:<b@peer.test> NOTIFY=FAILURE,DELAY",
        "DATA",
    ]


def test_reports_are_not_spoken_of_where_dsn_is_not_offered_or_nothing_is_asked() -> None:
    plain = ["MAIL FROM:<from@me.test>", "RCPT TO:<a@peer.test>", "RCPT TO:<b@peer.test>", "DATA"]
    assert commands(offering(), dsn=ASKED) == plain
    assert commands(offering("DSN"), dsn=DsnRequest()) == plain


def test_never_stands_alone() -> None:
    asked = DsnRequest(notify=frozenset(Notify))
    assert commands(offering("DSN"), dsn=asked)[1] == "RCPT TO:<a@peer.test> NOTIFY=NEVER"


def test_a_parameter_that_would_be_too_long_is_left_out() -> None:
    asked = DsnRequest(envid="e" * 101, original_recipients=("o" * 500 + "@x.test",))
    assert commands(offering("DSN"), dsn=asked)[:2] == [
        "MAIL FROM:<from@me.test>",
        "RCPT TO:<a@peer.test>",
    ]


def test_an_original_recipient_goes_on_as_the_client_gave_it() -> None:
    given = DsnRequest(original_recipients=("a@x.test",), orcpts=("X400;a+2Bb",))
    assert commands(offering("DSN"), dsn=given)[1] == "RCPT TO:<a@peer.test> ORCPT=X400;a+2Bb"


def test_an_original_recipient_in_utf8_is_written_in_ascii() -> None:
    asked = DsnRequest(original_recipients=("ü+\\@x.test",))
    assert commands(offering("DSN"), dsn=asked)[1] == (
        r"RCPT TO:<a@peer.test> ORCPT=utf-8;\x{FC}\x{2B}\x{5C}@x.test"
    )


@given(st.text())
def test_xtext_is_one_word_that_reads_back(original: str) -> None:
    text_form = xtext(original.encode("utf-8", "replace").decode())
    assert all("!" <= each <= "~" and each != "=" for each in text_form)
    out, rest = bytearray(), text_form
    while rest:
        size = 3 if rest[0] == "+" else 1
        out += bytes([int(rest[1:3], 16)]) if size == 3 else rest[:1].encode()
        rest = rest[size:]
    assert out.decode() == original.encode("utf-8", "replace").decode()


# ── REQUIRETLS, SMTPUTF8, 8BITMIME, NUL ───────────────────────────────────────────────────────


def test_requiretls_goes_only_under_tls_and_where_it_is_offered() -> None:
    assert refused(offering("REQUIRETLS"), requires_tls=True).startswith("550 5.7.30 ")
    dialogue = Dialogue("me.test", wants_tls=True)
    hear(dialogue, "220 hello")
    hear(dialogue, "250-x", "250-REQUIRETLS", "250 STARTTLS")
    hear(dialogue, "220 go")
    dialogue.tls_established()
    hear(dialogue, "250-x", "250 PIPELINING")
    # What was offered in clear was forgotten.
    assert refused(dialogue, requires_tls=True).startswith("550 5.7.30 ")


def test_requiretls_is_said_where_it_is_offered_under_tls() -> None:
    dialogue = Dialogue("me.test", wants_tls=True)
    for lines in (["220 hello"], ["250-x", "250 STARTTLS"], ["220 go"]):
        hear(dialogue, *lines)
    dialogue.tls_established()
    hear(dialogue, "250-x", "250-PIPELINING", "250 REQUIRETLS")
    assert commands(dialogue, requires_tls=True)[0] == "MAIL FROM:<from@me.test> REQUIRETLS"


def test_a_report_is_not_lost_over_a_server_that_does_not_know_requiretls() -> None:
    dialogue = Dialogue("me.test", wants_tls=True)
    for lines in (["220 hello"], ["250-x", "250 STARTTLS"], ["220 go"]):
        hear(dialogue, *lines)
    dialogue.tls_established()
    hear(dialogue, "250-x", "250 PIPELINING")
    assert commands(dialogue, requires_tls=True, reverse_path="")[0] == "MAIL FROM:<>"
    in_clear = refused(offering("REQUIRETLS"), requires_tls=True, reverse_path="")
    assert in_clear.startswith("550 5.7.30 ")


def test_a_domain_of_other_letters_needs_no_smtputf8() -> None:
    lines = commands(offering(), reverse_path="f@größe.test", forward_paths=("a@bücher.test",))
    assert lines[:2] == [
        "MAIL FROM:<f@xn--gre-6ka8i.test>",
        "RCPT TO:<a@xn--bcher-kva.test>",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"forward_paths": ("ü@peer.test",)},
        {"reverse_path": "ü@me.test"},
        {"needs_smtputf8": True},
    ],
)
def test_a_local_part_of_other_letters_goes_only_to_smtputf8(changes: dict[str, object]) -> None:
    assert refused(offering(), **changes).startswith("550 5.6.7 ")
    assert commands(offering("SMTPUTF8"), **changes)[0].endswith("> SMTPUTF8")


def test_a_domain_that_is_none_is_told() -> None:
    assert refused(offering(), forward_paths=("a@\u2603\u200d.test",)).startswith("553 5.1.3 ")


def test_8bit_content_never_goes_where_8bitmime_is_not_offered() -> None:
    dialogue = offering()
    assert refused(dialogue, content="ü\r\n".encode(), needs_8bit=True).startswith("451 4.6.3 ")
    # A flag that was forgotten changes nothing.
    assert refused(dialogue, content="ü\r\n".encode()).startswith("451 4.6.3 ")
    lines = commands(offering("8BITMIME"), content="ü\r\n".encode(), needs_8bit=True)
    assert lines[0] == "MAIL FROM:<from@me.test> BODY=8BITMIME"


def test_a_nul_never_reaches_the_wire() -> None:
    assert refused(offering(), content=b"a\r\n\0.\r\nb").startswith("554 5.6.0 ")


# ── LIMITS ────────────────────────────────────────────────────────────────────────────────────


def test_limits_are_read_and_nonsense_limits_nothing() -> None:
    lines = (b"x", b"limits MAILMAX=20 rcptmax=5 RCPTDOMAINMAX=x OTHER=1 =")
    found = Extensions.parse(lines)
    assert (found.mail_max, found.rcpt_max, found.rcpt_domain_max) == (20, 5, 0)


def test_authentication_is_read_in_both_spellings() -> None:
    found = Extensions.parse((b"x", b"AUTH plain LOGIN", b"AUTH=CRAM-MD5 LOGIN"))
    assert found.auth == {"PLAIN", "LOGIN", "CRAM-MD5"}


def test_no_more_transactions_begin_than_the_server_takes() -> None:
    dialogue = offering("LIMITS MAILMAX=1")
    could = dialogue.can_begin
    dialogue.begin(message())
    assert (could, dialogue.can_begin, dialogue.is_ready) == (True, False, True)


@pytest.mark.parametrize(
    ("limits", "left_out"), [("RCPTMAX=2", {2, 3}), ("RCPTDOMAINMAX=1", {1, 3})]
)
@pytest.mark.parametrize("is_pipelined", [True, False])
def test_recipients_over_a_limit_are_not_asked_about_and_may_come_again(
    limits: str, left_out: set[int], is_pipelined: bool
) -> None:
    ehlo = f"250-x\r\n250 LIMITS {limits}"
    dialogue = offering(f"LIMITS {limits}") if is_pipelined else opened(ehlo)
    paths = ("a@one.test", "b@two.test", "c@ONE.test", "d@two.test")
    transaction = Transaction(WireMessage("f@me.test", paths, b"x\r\n"))
    said = text(dialogue.begin(transaction))
    for _ in range(3 if not is_pipelined else 0):
        said += text(hear(dialogue, "250 ok"))
    if is_pipelined:
        hear(dialogue, "250 ok", "250 ok", "250 ok")
    asked = {index for index, path in enumerate(paths) if f"<{path}>" in said}
    assert asked == set(range(4)) - left_out
    hear(dialogue, "354 go")
    dialogue.dot_sent(transaction)
    hear(dialogue, "250 2.0.0 ok")
    told = verdicts(transaction)
    assert {n for n, known in enumerate(told) if known == (452, "rcpt", Scope.SESSION)} == left_out
    assert all(known == (250, "dot", Scope.MESSAGE) for n, known in enumerate(told) if n in asked)


def test_a_second_greeting_is_no_answer_to_ehlo() -> None:
    dialogue = Dialogue("me.test", wants_tls=False)
    hear(dialogue, "220 hello")
    hear(dialogue, "220 hello again")
    assert dialogue.is_over
    assert opened(ONE_BY_ONE).is_ready

"""What the server answers to each command, in each state."""

from __future__ import annotations

import pytest

from mailcore.address import ForwardPath, ReversePath
from mailcore.reception import Admission, Gauge, Limits
from mailcore.reply import SmtpReply
from tests.support.reception import (
    MESSAGE,
    OWN,
    POSTMASTER,
    TAKEN,
    TO_DATA,
    Keeper,
    Session,
    opened,
)


def test_a_message_is_answered_only_when_it_was_taken() -> None:
    session = opened(reply=None)
    assert session.codes(TO_DATA) == ["250 2.1.0", "250 2.1.5", "354 end"]
    assert session.say(MESSAGE + b".\r\n") == ""
    assert session.say(b"NOOP\r\n") == ""
    (letter,) = session.letters
    assert letter.content == MESSAGE
    assert letter.identity == OWN
    assert letter.reverse_path == ReversePath("a", "shop.test")
    assert [r.address for r in letter.recipients] == [ForwardPath("b", "example.com")]
    assert (letter.ehlo, letter.protocol) == ("client.test", "ESMTP")
    session.do(session.dialogue.decided(TAKEN))
    assert session.heard.endswith(
        b"354 end with <CRLF>.<CRLF>\r\n250 2.0.0 queued as 1\r\n250 2.0.0 ok\r\n"
    )
    assert session.gauge.held == 0


def test_the_greeting_lists_what_is_offered_here_and_now() -> None:
    session = Session(can_start_tls=True)
    assert session.heard == b"220 mx.shop.test ESMTP Postfleet\r\n"
    clear = session.say(b"EHLO client.test\r\n")
    assert "STARTTLS" in clear
    assert "AUTH" not in clear
    assert "REQUIRETLS" not in clear
    for word in ("PIPELINING", "SIZE 26214400", "8BITMIME", "SMTPUTF8", "CHUNKING"):
        assert f"250-{word}\r\n" in clear or f"250 {word}\r\n" in clear
    session.say(b"STARTTLS\r\n")
    session.do(session.dialogue.secured())
    secure = session.say(b"EHLO client.test\r\n")
    assert "AUTH PLAIN LOGIN" in secure
    assert "STARTTLS" not in secure
    assert "REQUIRETLS" in secure


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        (b"MAIL FROM:<a@shop.test>\r\n", "503 5.5.1"),
        (b"EHLO\r\n", "501 5.5.4"),
        (b"EHLO two words\r\n", "501 5.5.4"),
        (b"EHLO caf\xc3\xa9\r\n", "501 5.5.4"),
        (b"HELO x\r\nMAIL FROM:<a@shop.test> SIZE=1\r\n", "503 5.5.1"),
        (b"", "220 mx.shop.test"),
        (b"\r\n", "500 5.5.2"),
        (b"FROBNICATE\r\n", "500 5.5.2"),
        (b"\xff\xfe\r\n", "500 5.5.2"),
        (b"GET / HTTP/1.1\r\n", "500 5.5.1"),
        (b"EXPN list\r\n", "502 5.5.1"),
        (b"VRFY a@b.test\r\n", "252 2.5.0"),
        (b"VRFY\r\n", "501 5.5.4"),
        (b"NOOP anything\r\n", "250 2.0.0"),
        (b"HELP\r\n", "214 2.0.0"),
        (b"RSET\r\n", "250 2.0.0"),
        (b"RSET now\r\n", "501 5.5.4"),
        (b"QUIT\r\n", "221 2.0.0"),
        (b"QUIT now\r\n", "501 5.5.4"),
        (b"STARTTLS\r\n", "503 5.5.1"),
        (b"DATA\r\n", "503 5.5.1"),
        (b"RCPT TO:<b@example.com>\r\n", "503 5.5.1"),
        (b"N" * 2047 + b"\r\n", "500 5.5.2"),
    ],
)
def test_commands_before_ehlo(lines: bytes, last: str) -> None:
    session = Session()
    session.codes(lines)
    final = session.heard.decode().splitlines()[-1]
    assert final.startswith(last)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"MAIL FROM:<a@shop.test>", "250 2.1.0"),
        (b"mail from: <a@shop.test>", "250 2.1.0"),
        (b"MAIL FROM:<>", "250 2.1.0"),
        (b"MAIL FROM:<@relay.test,@other.test:a@shop.test>", "250 2.1.0"),
        (b'MAIL FROM:<"a > b"@shop.test>', "250 2.1.0"),
        (b"MAIL FROM:<a@shop.test> SIZE=100 BODY=8BITMIME SMTPUTF8 AUTH=<>", "250 2.1.0"),
        (b"MAIL FROM:<a@shop.test> SIZE=100 BODY=8BITMIME SMTPUTF8 AUTH=a+40b", "250 2.1.0"),
        (b"MAIL FROM:a@shop.test", "501 5.5.4"),
        (b"MAIL TO:<a@shop.test>", "501 5.5.4"),
        (b"MAIL", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test>SIZE=1", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> SIZE=1 SIZE=2", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> SIZE=x", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> SIZE=26214401", "552 5.3.4"),
        (b"MAIL FROM:<a@shop.test> BODY=BINARYMIME", "555 5.5.4"),
        (b"MAIL FROM:<a@shop.test> BODY=9BIT", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> WINGS=2", "555 5.5.4"),
        (b"MAIL FROM:<a@shop>", "553 5.1.7"),
        (b"MAIL FROM:<not an address>", "501 5.5.4"),
        (b"MAIL FROM:<\xc3\xa9@shop.test>", "553 5.6.7"),
        (b"MAIL FROM:<\xc3\xa9@shop.test> SMTPUTF8", "250 2.1.0"),
    ],
)
def test_mail_is_read_to_the_letter(command: bytes, answer: str) -> None:
    assert opened().codes(command + b"\r\n") == [answer]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"RCPT TO:<b@example.com>", "250 2.1.5"),
        (b"RCPT TO:<@relay.test:b@example.com>", "250 2.1.5"),
        (b"RCPT TO:<Postmaster>", "250 2.1.5"),
        (b"RCPT TO:<>", "553 5.1.3"),
        (b"RCPT TO:<b>", "553 5.1.3"),
        (b"RCPT TO:<b@[192.0.2.1]>", "553 5.1.3"),
        (b"RCPT TO:<b@b\xc3\xbccher.test>", "553 5.6.7"),
        (b"RCPT TO:b@example.com", "501 5.5.4"),
        (b"RCPT FROM:<b@example.com>", "501 5.5.4"),
        (b"RCPT TO:<b@example.com> WINGS=2", "555 5.5.4"),
        (b"MAIL FROM:<c@shop.test>", "503 5.5.1"),
        (b"DATA", "554 5.5.1"),
        (b"AUTH PLAIN", "538 5.7.11"),
    ],
)
def test_rcpt_is_read_to_the_letter(command: bytes, answer: str) -> None:
    session = opened()
    assert session.codes(b"MAIL FROM:<a@shop.test>\r\n" + command + b"\r\n")[1:] == [answer]


def test_after_helo_there_are_no_parameters() -> None:
    session = Session()
    assert session.say(b"HELO client.test\r\n") == "250 mx.shop.test\r\n"
    assert session.codes(b"MAIL FROM:<a@shop.test> SIZE=1\r\n") == ["555 5.5.4"]
    session.codes(TO_DATA)
    session.say(MESSAGE + b".\r\n")
    assert session.letters[0].protocol == "SMTP"


def test_postmaster_goes_to_whom_the_operator_named() -> None:
    session = opened()
    session.say(b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<postmaster>\r\nDATA\r\n")
    session.say(MESSAGE + b".\r\n")
    assert [r.address for r in session.letters[0].recipients] == [POSTMASTER]


def test_a_recipient_named_twice_is_mailed_once() -> None:
    session = opened()
    session.say(b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<b@example.com>\r\n")
    assert session.codes(b"RCPT TO:<B@EXAMPLE.com>\r\n") == ["250 2.1.5"]
    session.say(b"DATA\r\n")
    session.say(MESSAGE + b".\r\n")
    assert len(session.letters[0].recipients) == 1


def test_too_many_recipients_are_told_to_come_again() -> None:
    session = opened(keeper=Keeper(Admission(recipients=1)))
    session.say(b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<b@example.com>\r\n")
    assert session.codes(b"RCPT TO:<c@example.com>\r\n") == ["452 4.5.3"]
    session.say(b"DATA\r\n")
    session.say(MESSAGE + b".\r\n")
    assert [str(r.address) for r in session.letters[0].recipients] == ["b@example.com"]


def test_nobody_sends_without_a_name() -> None:
    keeper = Keeper()
    session = opened(own=None, keeper=keeper, can_start_tls=True)
    assert session.say(b"MAIL FROM:<a@shop.test>\r\n").startswith("530 5.7.0")
    assert session.codes(b"RCPT TO:<b@example.com>\r\n") == ["503 5.5.1"]
    assert session.codes(b"DATA\r\n") == ["503 5.5.1"]
    assert not keeper.asked


def test_what_the_doorkeeper_refuses_is_refused_at_mail() -> None:
    refusal = SmtpReply.local(450, "4.7.1", "slower")
    session = opened(keeper=Keeper(Admission(refusal)))
    assert session.codes(b"MAIL FROM:<a@shop.test>\r\n") == ["450 4.7.1"]
    assert session.codes(b"RCPT TO:<b@example.com>\r\n") == ["503 5.5.1"]


def test_too_many_errors_end_the_session_and_a_message_forgives_them() -> None:
    session = opened(limits=Limits(errors=3))
    for _ in range(2):
        assert session.codes(b"BAD\r\n" * 3) == ["500 5.5.2"] * 3
        session.codes(TO_DATA)
        session.say(MESSAGE + b".\r\n")
    assert session.codes(b"BAD\r\n" * 5) == ["500 5.5.2"] * 4 + ["421 4.7.0"]
    assert session.is_closed


def test_chatter_without_mail_ends_the_session() -> None:
    session = opened(limits=Limits(idle_commands=5))
    assert session.codes(b"NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\nNOOP\r\n")[-1] == "421 4.7.0"
    assert session.is_closed


@pytest.mark.parametrize("command", [b"DATA", b"EHLO client.test", b"STARTTLS", b"AUTH PLAIN"])
def test_what_stands_behind_a_command_that_ends_a_group_ends_the_session(command: bytes) -> None:
    session = opened(can_start_tls=True, is_tls=command == b"AUTH PLAIN")
    session.codes(b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<b@example.com>\r\n")
    assert session.codes(command + b"\r\nMAIL FROM:<evil@shop.test>\r\n") == ["503 5.5.1"]
    assert session.is_closed
    assert session.codes(b"NOOP\r\n") == []


# ── size ──────────────────────────────────────────────────────────────────────────────────────


def test_a_message_of_the_very_size_passes_and_one_octet_more_does_not() -> None:
    for extra, answer in ((0, "250 2.0.0"), (1, "552 5.3.4")):
        session = opened(keeper=Keeper(Admission(message_bytes=300)))
        session.codes(TO_DATA)
        body = b"." * 100 + b"\r\n"
        message = body * 2 + b"x" * (300 - 2 * len(body) - 2 + extra) + b"\r\n"
        stuffed = message.replace(b"\r\n.", b"\r\n..")
        assert session.codes(b"." + stuffed + b".\r\n") == [answer]
        assert session.codes(b"NOOP\r\n") == ["250 2.0.0"]
        assert session.gauge.held == 0


def test_an_endless_message_ends_the_session() -> None:
    session = opened(limits=Limits(message_bytes=1024))
    session.codes(TO_DATA)
    for _ in range(40):
        session.say(b"x" * 1000 + b"\r\n" * 20_000)
        assert session.gauge.held <= 2048
    assert session.heard.endswith(b"552 5.3.4 a message may take 1024 octets\r\n")
    assert session.is_closed


def test_memory_that_is_full_defers_mail_and_is_given_back() -> None:
    gauge = Gauge(1000)
    first, second = opened(gauge=gauge), opened(gauge=gauge)
    first.codes(TO_DATA)
    first.say(b"x" * 900)
    second.codes(TO_DATA)
    assert second.codes(b"y" * 900 + b"\r\n.\r\n") == ["452 4.3.1"]
    gauge.held += 200
    assert second.codes(TO_DATA)[-1] == "452 4.3.1"
    gauge.held -= 200
    first.dialogue.abandon()
    assert gauge.held == 0


def test_mail_in_circles_is_refused() -> None:
    session = opened(limits=Limits(received_fields=2))
    session.codes(TO_DATA)
    assert session.codes(b"Received: x\r\n" * 2 + MESSAGE + b".\r\n") == ["250 2.0.0"]
    session.codes(TO_DATA)
    assert session.codes(b"Received : x\r\nreceived\t: y\r\n" * 2 + MESSAGE + b".\r\n") == [
        "554 5.4.6"
    ]


# ── chunks ────────────────────────────────────────────────────────────────────────────────────

TO_BDAT = b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<b@example.com>\r\n"


def bdat(content: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%s\r\n" % (len(content), b" LAST" if last else b"") + content


def test_chunks_make_one_message_whatever_lines_look_like_commands() -> None:
    session = opened()
    body = b"From: a@shop.test\r\n\r\n.\r\nQUIT\r\n..\r\n"
    assert session.codes(
        TO_BDAT + bdat(body[:9]) + bdat(b"") + bdat(body[9:]) + bdat(b"", last=True)
    ) == ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0"]
    assert [letter.content for letter in session.letters] == [body]


def test_rset_throws_chunks_away() -> None:
    session = opened()
    session.say(TO_BDAT + bdat(b"old\r\n") + b"RSET\r\n" + TO_BDAT + bdat(MESSAGE, last=True))
    assert [letter.content for letter in session.letters] == [MESSAGE]
    assert session.gauge.held == 0


def test_chunks_nobody_wants_are_read_and_dropped() -> None:
    session = opened()
    assert session.codes(bdat(b"QUIT\r\n") + bdat(b"QUIT\r\n", last=True) + b"NOOP\r\n") == [
        "503 5.5.1",
        "503 5.5.1",
        "250 2.0.0",
    ]
    session.say(b"MAIL FROM:<a@shop.test>\r\n")
    assert session.codes(bdat(b"QUIT\r\n", last=True)) == ["554 5.5.1"]


def test_a_message_too_large_for_its_chunks_fails_whole() -> None:
    session = opened(limits=Limits(message_bytes=1024))
    session.say(TO_BDAT)
    large = b"x" * 1000
    assert session.codes(bdat(large) + bdat(large) + bdat(b"") + bdat(b"", last=True)) == [
        "250 2.0.0",
        "552 5.3.4",
        "552 5.3.4",
        "552 5.3.4",
    ]
    assert session.codes(TO_BDAT + bdat(MESSAGE, last=True))[-1] == "250 2.0.0"
    assert len(session.letters) == 1


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"BDAT\r\n", "501 5.5.4"),
        (b"BDAT x\r\n", "501 5.5.4"),
        (b"BDAT -1\r\n", "501 5.5.4"),
        (b"BDAT 5 FIRST\r\n", "501 5.5.4"),
        (b"BDAT 99999999999999999999\r\n", "552 5.3.4"),
    ],
)
def test_a_chunk_of_unknown_length_ends_the_session(line: bytes, answer: str) -> None:
    session = opened()
    session.say(TO_BDAT)
    assert session.codes(line + b"QUIT\r\n") == [answer]
    assert session.is_closed


def test_the_two_ways_to_send_content_do_not_mix() -> None:
    session = opened()
    session.say(TO_BDAT + bdat(b"From: a@shop.test\r\n"))
    assert session.codes(b"DATA\r\n") == ["503 5.5.1"]
    assert session.codes(b"RCPT TO:<c@example.com>\r\n") == ["503 5.5.1"]


# ── the end of the server ─────────────────────────────────────────────────────────────────────


def test_closing_down_ends_idle_sessions_at_once() -> None:
    session = opened()
    session.do(session.dialogue.close_down())
    assert session.heard.endswith(b"421 4.3.2 closing for maintenance, try again in a moment\r\n")
    assert session.is_closed


def test_closing_down_lets_a_transaction_finish() -> None:
    session = opened()
    session.codes(TO_DATA)
    session.do(session.dialogue.close_down())
    assert session.heard.endswith(b"354 end with <CRLF>.<CRLF>\r\n")
    assert session.codes(MESSAGE + b".\r\n") == ["250 2.0.0", "421 4.3.2"]
    assert session.is_closed
    assert len(session.letters) == 1


def test_a_client_that_takes_too_long_is_told() -> None:
    session = opened()
    session.codes(TO_DATA)
    session.say(b"x" * 100)
    session.do(session.dialogue.time_out())
    assert session.heard.endswith(b"421 4.4.2 timed out, closing\r\n")
    assert session.is_closed
    assert session.gauge.held == 0

"""What reports a client asks for at MAIL and RCPT, read to the letter (RFC 3461, RFC 6533)."""

from __future__ import annotations

import pytest

from mailcore.reception import Limits
from tests.support.reception import MESSAGE, opened


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"MAIL FROM:<a@shop.test> RET=HDRS ENVID=a+20b", "250 2.1.0"),
        (b"MAIL FROM:<a@shop.test> RET=", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> RET=ALL", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> RET=FULL RET=HDRS", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> NOTIFY=NEVER", "555 5.5.4"),
        (b"MAIL FROM:<a@shop.test> ENVID=" + b"e" * 100, "250 2.1.0"),
        (b"MAIL FROM:<a@shop.test> ENVID=" + b"e" * 101, "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> ENVID=", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> ENVID=a+0", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> ENVID=a+2b", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> ENVID=a+0D+0ABcc:x", "501 5.5.4"),
        (b"MAIL FROM:<a@shop.test> ENVID=+C3+A9", "501 5.5.4"),
    ],
)
def test_what_reports_are_asked_of_a_message_is_read_to_the_letter(
    command: bytes, answer: str
) -> None:
    assert opened().codes(command + b"\r\n") == [answer]


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        (b"NOTIFY=NEVER", "250 2.1.5"),
        (b"NOTIFY=success,failure,DELAY", "250 2.1.5"),
        (b"NOTIFY=DELAY,FAILURE ORCPT=RFC822;x+2By@example.com", "250 2.1.5"),
        (b"NOTIFY=", "501 5.5.4"),
        (b"NOTIFY=SUCCESS,SUCCESS", "501 5.5.4"),
        (b"NOTIFY=SUCCESS,", "501 5.5.4"),
        (b"NOTIFY=NEVER,FAILURE", "501 5.5.4"),
        (b"NOTIFY=NEVER NOTIFY=FAILURE", "501 5.5.4"),
        (b"NOTIFY=ALWAYS", "501 5.5.4"),
        (b"RET=FULL", "555 5.5.4"),
        (b"ORCPT=rfc822;" + b"o" * 493, "250 2.1.5"),
        (b"ORCPT=rfc822;" + b"o" * 494, "501 5.5.4"),
        (b"ORCPT=b@example.com", "501 5.5.4"),
        (b"ORCPT=rfc822;", "501 5.5.4"),
        (b"ORCPT=;b@example.com", "501 5.5.4"),
        (b"ORCPT=rfc822;a+0D+0Ab", "501 5.5.4"),
        (b"ORCPT=rfc822;a+FFb", "501 5.5.4"),
        (b"ORCPT=utf-8;gr\\x{FC}n@example.com", "250 2.1.5"),
        ("ORCPT=utf-8;grün@example.com".encode(), "501 5.5.4"),  # no SMTPUTF8
    ],
)
def test_what_reports_are_asked_of_a_recipient_is_read_to_the_letter(
    parameters: bytes, answer: str
) -> None:
    session = opened()
    session.say(b"MAIL FROM:<a@shop.test>\r\n")
    assert session.codes(b"RCPT TO:<b@example.com> " + parameters + b"\r\n") == [answer]


@pytest.mark.parametrize("name", ["NOTIFY", "ORCPT"])
def test_the_refusal_names_the_parameter(name: str) -> None:
    session = opened()
    session.say(b"MAIL FROM:<a@shop.test>\r\n")
    assert name in session.say(f"RCPT TO:<b@example.com> {name}=:\r\n".encode())
    assert f"{name} stands there twice" in session.say(
        f"RCPT TO:<b@example.com> {name}=x {name}=x\r\n".encode()
    )


def test_an_original_recipient_in_utf8_is_kept_in_ascii() -> None:
    session = opened()
    session.say(b"MAIL FROM:<a@shop.test> SMTPUTF8\r\n")
    command = "RCPT TO:<grün@example.com> ORCPT=UTF-8;grün\\x{2B}@example.com\r\n"
    assert session.codes(command.encode()) == ["250 2.1.5"]
    bad = "RCPT TO:<b@example.com> ORCPT=utf-8;a\u2028b@example.com\r\n"
    assert session.codes(bad.encode()) == ["501 5.5.4"]
    session.say(b"DATA\r\n")
    session.say(MESSAGE + b".\r\n")
    assert session.letters[0].recipients[0].orcpt == "utf-8;gr\\x{FC}n\\x{2B}@example.com"


def test_where_reports_are_not_offered_their_parameters_are_none() -> None:
    session = opened(limits=Limits(offers_dsn=False))
    assert "DSN" not in session.say(b"EHLO client.test\r\n")
    assert session.codes(b"MAIL FROM:<a@shop.test> RET=HDRS\r\n") == ["555 5.5.4"]


def test_dsn_parameters_are_kept_where_they_are_offered() -> None:
    session = opened()
    assert "250 DSN" in session.say(b"EHLO client.test\r\n")
    assert session.codes(
        b"MAIL FROM:<a@shop.test> RET=hdrs ENVID=QQ+2B1\r\n"
        b"RCPT TO:<b@example.com> NOTIFY=success,DELAY ORCPT=rfc822;b+40example.com\r\n"
        b"RCPT TO:<c@example.com> NOTIFY=NEVER,DELAY\r\n"
        b"RCPT TO:<c@example.com> ORCPT=nonsense\r\n"
    ) == ["250 2.1.0", "250 2.1.5", "501 5.5.4", "501 5.5.4"]
    session.say(b"DATA\r\n")
    session.say(MESSAGE + b".\r\n")
    (letter,) = session.letters
    assert (letter.ret, letter.envid) == ("HDRS", "QQ+2B1")
    assert (letter.recipients[0].notify, letter.recipients[0].orcpt) == (
        "SUCCESS,DELAY",
        "rfc822;b+40example.com",
    )

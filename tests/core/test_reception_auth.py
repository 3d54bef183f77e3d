"""Who logs in, how, and how often somebody may be wrong; what may be asked for under TLS alone."""

from __future__ import annotations

import base64

import pytest

from mailcore.reception import Identity, Limits
from tests.support.reception import MESSAGE, TO_DATA, TOKEN, Session, opened


def b64(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


GOOD = b64("\0news\0pf_secret")


def secure(**options: object) -> Session:
    return opened(own=None, is_tls=True, **options)


def nobody(user: str, password: str) -> Identity | None:
    return None


@pytest.mark.parametrize(
    "lines",
    [
        (b"AUTH PLAIN " + GOOD,),
        (b"auth plain", GOOD),
        (b"AUTH PLAIN " + b64("news\0news\0pf_secret"),),
        (b"AUTH LOGIN", b64("news"), b64("pf_secret")),
        (b"AUTH LOGIN " + b64("news"), b64("pf_secret")),
    ],
)
def test_both_mechanisms_give_user_and_password(lines: tuple[bytes, ...]) -> None:
    session = secure()
    for line in lines:
        answer = session.say(line + b"\r\n")
    assert answer == "235 2.7.0 welcome\r\n"
    assert session.logins == [("news", "pf_secret")]
    session.say(TO_DATA)
    session.say(MESSAGE + b".\r\n")
    assert session.letters[0].identity == TOKEN
    assert session.letters[0].protocol == "ESMTPSA"


def test_the_challenges_are_those_clients_know() -> None:
    session = secure()
    assert session.say(b"AUTH LOGIN\r\n") == "334 VXNlcm5hbWU6\r\n"
    assert session.say(b64("news") + b"\r\n") == "334 UGFzc3dvcmQ6\r\n"
    assert session.say(b"*\r\n").startswith("501 5.7.0")
    assert session.say(b"AUTH PLAIN\r\n") == "334 \r\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"AUTH", "504 5.5.4"),
        (b"AUTH CRAM-MD5", "504 5.5.4"),
        (b"AUTH PLAIN ???", "501 5.5.2"),
        (b"AUTH PLAIN =", "501 5.5.2"),
        (b"AUTH PLAIN " + b64("news\0pf_secret"), "501 5.5.2"),
        (b"AUTH PLAIN " + b64(b"\0\xff\0x"), "501 5.5.2"),
        (b"AUTH PLAIN " + b64("other\0news\0pf_secret"), "535 5.7.8"),
    ],
)
def test_what_is_no_exchange_is_refused(line: bytes, answer: str) -> None:
    session = secure()
    assert session.codes(line + b"\r\n") == [answer]
    assert not session.logins


def test_in_clear_nobody_logs_in() -> None:
    session = opened(own=None, can_start_tls=True)
    assert session.codes(b"AUTH PLAIN " + GOOD + b"\r\n") == ["538 5.7.11"]
    assert not session.logins


def test_wrong_credentials_are_told_apart_from_a_store_that_is_away() -> None:
    session = secure(identify=nobody)
    assert session.codes(b"AUTH PLAIN " + GOOD + b"\r\n") == ["535 5.7.8"]
    session.do(session.dialogue.not_verified(is_temporary=True))
    assert session.heard.splitlines()[-1].startswith(b"454 4.7.0")
    assert session.codes(b"MAIL FROM:<a@shop.test>\r\n") == ["530 5.7.0"]


def test_who_is_wrong_too_often_is_shown_out() -> None:
    session = secure(identify=nobody, limits=Limits(auth_tries=2))
    assert session.codes(b"AUTH PLAIN " + GOOD + b"\r\n") == ["535 5.7.8"]
    assert session.codes(b"AUTH PLAIN ???\r\n") == ["501 5.5.2", "421 4.7.0"]
    assert session.is_closed


def test_login_comes_once_and_outside_of_a_transaction() -> None:
    session = secure()
    session.say(b"AUTH PLAIN " + GOOD + b"\r\n")
    assert session.codes(b"AUTH PLAIN " + GOOD + b"\r\n") == ["503 5.5.1"]
    assert "AUTH" not in session.say(b"EHLO client.test\r\n")
    other = opened(is_tls=True)
    other.say(b"MAIL FROM:<a@shop.test>\r\n")
    assert other.codes(b"AUTH PLAIN " + GOOD + b"\r\n") == ["503 5.5.1"]


def test_an_answer_beyond_its_limit_ends_the_exchange() -> None:
    session = secure()
    session.say(b"AUTH PLAIN\r\n")
    assert session.codes(b"A" * 12_287 + b"\r\n") == ["500 5.5.6"]
    assert session.codes(b"NOOP\r\n") == ["250 2.0.0"]


def test_a_password_is_not_shown_where_steps_are_printed() -> None:
    session = Session(own=None, is_tls=True)
    session.say(b"EHLO client.test\r\n")
    steps = session.dialogue.receive(b"AUTH PLAIN " + GOOD + b"\r\n")
    assert "pf_secret" not in repr(steps)


@pytest.mark.parametrize(
    ("is_tls", "given", "answer"),
    [
        (True, b"REQUIRETLS", "250 2.1.0"),
        (True, b"requiretls SIZE=9", "250 2.1.0"),
        (True, b"REQUIRETLS=yes", "501 5.5.4"),
        (False, b"REQUIRETLS", "555 5.5.4"),
    ],
)
def test_requiretls_may_be_asked_for_under_tls_alone(
    is_tls: bool, given: bytes, answer: str
) -> None:
    session = opened(can_start_tls=True, is_tls=is_tls)
    assert session.codes(b"MAIL FROM:<a@shop.test> " + given + b"\r\n") == [answer]
    if answer == "250 2.1.0":
        session.say(b"RCPT TO:<b@example.com>\r\nDATA\r\n")
        session.say(MESSAGE + b".\r\n")
        assert session.letters[0].requires_tls

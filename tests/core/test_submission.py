"""What a client offers is taken, or refused with a pointer at every thing that is wrong."""

import base64
import email
import email.policy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from mailcore.errors import SubmissionRefused
from mailcore.outcome import MailClass, TlsNeed
from mailcore.policy.model import Account, PolicySnapshot, Relay, Sender, SendingDomain
from mailcore.submission import Plan, parse_offer, plan_submission, raw_offer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MESSAGE_ID = UUID("0190163d-8694-739b-aea5-966c26f8ad91")
RAW = b"From: Shop <news@shop.test>\nTo: a@x.test\nSubject: hi\n\nbody\n"


def sender(number: int, name: str, *accounts: int) -> Sender:
    return Sender(
        id=number, name=name, account_ids=accounts, pool_id=1, strategy_id=0, default_rule_id=0
    )


def account(number: int, *, is_active: bool = True, sender_id: int = 1) -> Account:
    return Account(
        id=number,
        name=f"account {number}",
        is_active=is_active,
        default_sender_id=sender_id,
        lifetime_s=3600.0,
        max_message_bytes=20_000,
        max_recipients=5,
    )


POLICY = PolicySnapshot(
    revision=9,
    accounts={
        1: account(1),
        2: account(2, is_active=False),
        3: account(3, sender_id=0),
        4: replace(account(4), max_recipients=0, max_message_bytes=0),
    },
    senders={1: sender(1, "main", 1, 4), 2: sender(2, "second", 1), 3: sender(3, "theirs", 3)},
    sending_domains={
        "shop.test": SendingDomain(1, "shop.test", (1, 3, 4), ""),
        "other.test": SendingDomain(2, "other.test", (3,), ""),
    },
)


def message(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "from": "Shop <news@shop.test>",
        "to": ["a@x.test"],
        "subject": "hello",
        "text": "body",
    }
    return {name: value for name, value in (body | changes).items() if value is not ...}


def raw_message(raw: bytes = RAW, **changes: Any) -> dict[str, Any]:
    return {"raw": base64.b64encode(raw).decode(), "recipients": ["a@x.test"], **changes}


def planned(body: Any, *, account_id: int = 1) -> Plan:
    return plan_submission(
        parse_offer(body), policy=POLICY, account_id=account_id, message_id=MESSAGE_ID, now=NOW
    )


def problems_of(body: Any, *, account_id: int = 1) -> list[tuple[str, str]]:
    with pytest.raises(SubmissionRefused) as caught:
        planned(body, account_id=account_id)
    assert all(problem.detail for problem in caught.value.problems)
    return [(problem.pointer, problem.code) for problem in caught.value.problems]


# ── what is taken ─────────────────────────────────────────────────────────────────────────────


def test_a_message_of_parts_becomes_a_submission() -> None:
    plan = planned(
        message(
            to=["Zoë <a@X.test>", {"address": "b@x.test", "name": "B, Mr"}],
            cc="c@x.test",
            bcc=["d@x.test"],
            priority=True,
            campaign=" spring ",
            custom={"order": "12"},
            sender="second",
        )
    )
    submission = plan.submission
    assert [str(r.address) for r in submission.recipients] == [
        "a@x.test",
        "b@x.test",
        "c@x.test",
        "d@x.test",
    ]
    assert [r.number for r in submission.recipients] == [0, 1, 2, 3]
    assert submission.mail_class is MailClass.PRIORITY
    assert (submission.campaign, submission.custom) == ("spring", {"order": "12"})
    assert (submission.account_id, submission.sender_id) == (1, 2)
    assert submission.header_from == "shop.test"
    assert str(submission.reverse_path) == "news@shop.test"
    assert (plan.lifetime_s, plan.policy_revision, plan.rejected) == (3600.0, 9, ())
    assert submission.message_id_header == f"<{MESSAGE_ID.hex}@shop.test>"
    content = email.message_from_bytes(submission.content, policy=email.policy.default)
    assert content["To"] == 'Zoë <a@x.test>, "B, Mr" <b@x.test>'
    assert "d@x.test" not in submission.content.decode()


def test_a_raw_message_is_repaired() -> None:
    submission = planned(raw_message(recipients=["b@x.test"])).submission
    assert submission.content.endswith(b"\r\n\r\nbody\r\n")
    assert b"\r\nDate: " in submission.content
    assert (submission.header_from, submission.subject) == ("shop.test", "hi")
    assert [str(r.address) for r in submission.recipients] == ["b@x.test"]


def test_a_bare_message_and_its_envelope_are_an_offer_too() -> None:
    offer = raw_offer(RAW, ["a@x.test"], priority="priority", campaign="c")
    assert (offer.raw, offer.campaign, offer.mail_class) == (RAW, "c", MailClass.PRIORITY)


def test_the_recipients_field_is_the_envelope_and_leaves_the_header_alone() -> None:
    plan = planned(message(to=["everybody@shop.test"], recipients=["a@x.test", "b@x.test"]))
    assert [str(r.address) for r in plan.submission.recipients] == ["a@x.test", "b@x.test"]
    assert b"To: everybody@shop.test\r\n" in plan.submission.content


def test_duplicates_and_malformed_addresses_are_rejected_and_the_rest_is_taken() -> None:
    plan = planned(message(to=["a@x.test", "nobody", "A@X.test", "b@x.test", "b@x.test"]))
    assert [(r.number, str(r.address)) for r in plan.submission.recipients] == [
        (0, "a@x.test"),
        (3, "b@x.test"),
    ]
    assert [(r.number, r.address, r.code) for r in plan.rejected] == [
        (1, "nobody", "malformed_address"),
        (2, "A@x.test", "duplicate"),
        (4, "b@x.test", "duplicate"),
    ]
    assert b"nobody" not in plan.submission.content


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1), (2, 2), ("main", 1), ("second", 2), (None, 1), ("", 1)]
)
def test_a_sender_is_named_by_number_or_name_or_not_at_all(value: Any, number: int) -> None:
    assert planned(message(sender=value)).submission.sender_id == number


@pytest.mark.parametrize(
    ("value", "mail_class"),
    [
        (True, MailClass.PRIORITY),
        ("priority", MailClass.PRIORITY),
        (False, MailClass.MAIN),
        ("main", MailClass.MAIN),
        (None, MailClass.MAIN),
    ],
)
def test_the_class_is_given_by_word_or_flag(value: Any, mail_class: MailClass) -> None:
    assert planned(message(priority=value)).submission.mail_class is mail_class


@pytest.mark.parametrize("need", TlsNeed)
def test_a_message_may_ask_for_tls(need: TlsNeed) -> None:
    assert planned(message(tls=need.name.lower())).submission.tls_need is need
    assert planned(message()).submission.tls_need is TlsNeed.POLICY


def test_times_are_read_with_their_offset() -> None:
    submission = planned(
        message(send_at="2026-03-01T15:30:00+02:00", expires_at="2026-03-02T00:00:00.5Z")
    ).submission
    assert submission.send_at == datetime(2026, 3, 1, 13, 30, tzinfo=UTC)
    assert submission.expires_at == datetime(2026, 3, 2, 0, 0, 0, 500_000, tzinfo=UTC)


def test_a_send_time_that_has_passed_means_now() -> None:
    assert planned(message(send_at="2026-03-01T11:59:00Z")).submission.send_at is None


def test_headers_and_attachments_of_the_client_are_in_the_message() -> None:
    plan = planned(
        message(
            headers={"X-Order": "12", "List-Help": ["<https://a.test>"], "Message-ID": "<1@a.b>"},
            attachments=[
                {
                    "filename": "отчёт.txt",
                    "content_type": 'text/plain; charset="utf-8"',
                    "content": "0L/RgNC40LLQtdGC\r\n",
                    "inline": False,
                },
                {"content": ""},
            ],
        )
    )
    content = email.message_from_bytes(plan.submission.content, policy=email.policy.default)
    assert (content["X-Order"], content["List-Help"]) == ("12", "<https://a.test>")
    assert plan.submission.message_id_header == content["Message-ID"] == "<1@a.b>"
    parts = list(content.walk())
    assert (parts[2].get_filename(), parts[2].get_content()) == ("отчёт.txt", "привет")
    assert parts[3].get_content_type() == "application/octet-stream"


def test_no_limit_of_the_account_leaves_the_products_own() -> None:
    plan = planned(
        message(recipients=[f"u{n}@x.test" for n in range(5000)], text="x" * 100_000), account_id=4
    )
    assert len(plan.submission.recipients) == 5000


# ── what is refused ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sender": "theirs"}, ("/sender", "unknown_sender")),
        ({"sender": 99}, ("/sender", "unknown_sender")),
        ({"sender": True}, ("/sender", "type")),
        ({"from": "a@other.test"}, ("/from", "from_domain_not_allowed")),
        ({"from": "a@sub.shop.test"}, ("/from", "from_domain_not_allowed")),
        ({"from": ...}, ("/from", "required")),
        ({"from": "nobody"}, ("/from", "malformed_address")),
        ({"from": 12}, ("/from", "type")),
        ({"from": {"name": "x"}}, ("/from/address", "required")),
        ({"from": {"address": "a@shop.test", "nick": "x"}}, ("/from/nick", "unknown_field")),
        ({"from": "A <a@shop.test>\r\nBcc: b@x.test"}, ("/from", "control_character")),
        (
            {"from": {"address": "a@shop.test", "name": "A\r\nBcc: b@x.test"}},
            ("/from/name", "control_character"),
        ),
        ({"to": ["a@x.test\nBcc: b@x.test"]}, ("/to/0", "control_character")),
        ({"to": [{"address": "a@x.test", "name": "A\nB"}]}, ("/to/0/name", "control_character")),
        ({"to": ["not an address"]}, ("/to/0", "malformed_address")),
        ({"to": [None]}, ("/to/0", "type")),
        ({"to": 5}, ("/to", "type")),
        ({"to": []}, ("/to", "required")),
        ({"to": ..., "recipients": []}, ("/to", "required")),
        ({"recipients": []}, ("/recipients", "required")),
        ({"reply_to": "nobody"}, ("/reply_to/0", "malformed_address")),
        ({"to": [f"u{n}@x.test" for n in range(6)]}, ("/recipients", "too_many_recipients")),
        ({"subject": "hi\r\nBcc: b@x.test"}, ("/subject", "control_character")),
        ({"subject": "hi\0"}, ("/subject", "control_character")),
        ({"subject": "hi\u2028there"}, ("/subject", "control_character")),
        ({"subject": "\ud83d"}, ("/subject", "charset")),
        ({"subject": ["x"]}, ("/subject", "type")),
        ({"subject": "x" * 2001}, ("/subject", "too_long")),
        ({"text": "a\0b"}, ("/text", "nul")),
        ({"text": "\udc00"}, ("/text", "charset")),
        ({"text": ...}, ("/text", "required")),
        ({"text": "x" * 30_000}, ("", "too_large")),
        ({"html": 1}, ("/html", "type")),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, ("/headers/X-A", "control_character")),
        ({"headers": {"X A": "1"}}, ("/headers/X A", "header_name")),
        ({"headers": {"X-A:": "1"}}, ("/headers/X-A:", "header_name")),
        ({"headers": {"X/A~\n": "1"}}, ("/headers/X~1A~0\n", "header_name")),
        ({"headers": {"": "1"}}, ("/headers/", "header_name")),
        ({"headers": {"Bcc": "b@x.test"}}, ("/headers/Bcc", "reserved_header")),
        ({"headers": {"content-type": "x"}}, ("/headers/content-type", "reserved_header")),
        ({"headers": {"X-Postfleet-A": "x"}}, ("/headers/X-Postfleet-A", "reserved_header")),
        ({"headers": {"Message-ID": "12"}}, ("/headers/Message-ID", "message_id")),
        ({"headers": {"References": ["<1@a>", "<2@a>"]}}, ("/headers/References", "too_many")),
        ({"headers": {"X-A": 5}}, ("/headers/X-A", "type")),
        ({"headers": []}, ("/headers", "type")),
        ({"attachments": {}}, ("/attachments", "type")),
        ({"attachments": ["x"]}, ("/attachments/0", "type")),
        ({"attachments": [{"filename": "a"}]}, ("/attachments/0/content", "required")),
        ({"attachments": [{"content": "a"}]}, ("/attachments/0/content", "base64")),
        ({"attachments": [{"content": "YQ==ä"}]}, ("/attachments/0/content", "base64")),
        ({"attachments": [{"content": 5}]}, ("/attachments/0/content", "type")),
        (
            {"attachments": [{"content": "", "filename": "a\r\nb"}]},
            ("/attachments/0/filename", "control_character"),
        ),
        (
            {"attachments": [{"content": "", "content_type": "png"}]},
            ("/attachments/0/content_type", "media_type"),
        ),
        (
            {"attachments": [{"content": "", "content_type": "message/rfc822"}]},
            ("/attachments/0/content_type", "media_type"),
        ),
        (
            {"attachments": [{"content": "", "content_id": "a>b"}]},
            ("/attachments/0/content_id", "content_id"),
        ),
        ({"attachments": [{"content": "", "inline": 1}]}, ("/attachments/0/inline", "type")),
        ({"attachments": [{"content": "", "x": 1}]}, ("/attachments/0/x", "unknown_field")),
        ({"attachments": [{"content": ""}] * 101}, ("/attachments", "too_many")),
        ({"campaign": "x" * 129}, ("/campaign", "too_long")),
        ({"campaign": "a\nb"}, ("/campaign", "control_character")),
        ({"priority": "high"}, ("/priority", "value")),
        ({"priority": 1}, ("/priority", "value")),
        ({"send_at": "tomorrow"}, ("/send_at", "time")),
        ({"send_at": "2026-03-01T12:00:00"}, ("/send_at", "time")),
        ({"send_at": "2026-13-01T12:00:00Z"}, ("/send_at", "time")),
        ({"send_at": ""}, ("/send_at", "time")),
        ({"send_at": 5}, ("/send_at", "type")),
        ({"send_at": "2028-01-01T00:00:00Z"}, ("/send_at", "too_late")),
        ({"expires_at": "2026-03-01T11:00:00Z"}, ("/expires_at", "too_early")),
        (
            {"send_at": "2026-03-03T00:00:00Z", "expires_at": "2026-03-02T00:00:00Z"},
            ("/expires_at", "too_early"),
        ),
        ({"custom": []}, ("/custom", "type")),
        ({"custom": {"a/b": 1}}, ("/custom/a~1b", "type")),
        ({"custom": {"a": "x" * 2040, "b": "y" * 100}}, ("/custom", "too_long")),
        ({"subjekt": "x"}, ("/subjekt", "unknown_field")),
        ({"raw": "", "recipients": ["a@x.test"]}, ("/subject", "conflict")),
    ],
)
def test_a_bad_field_is_pointed_at(changes: dict[str, Any], problem: tuple[str, str]) -> None:
    assert problem in problems_of(message(**changes))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([], ("", "type")),
        ("x", ("", "type")),
        (raw_message(recipients=[]), ("/recipients", "required")),
        (raw_message() | {"raw": "%%%"}, ("/raw", "base64")),
        (raw_message() | {"raw": None}, ("/raw", "type")),
        (raw_message(RAW.replace(b"shop", b"other")), ("/raw", "from_domain_not_allowed")),
        (raw_message(RAW + b"\0"), ("/raw", "nul")),
        (raw_message(b"To: a@x.test\n\nx\n"), ("/raw", "from_missing")),
        (raw_message(RAW + b"x\n" * 9000), ("/raw", "too_large")),
    ],
)
def test_a_bad_raw_message_is_pointed_at(body: Any, problem: tuple[str, str]) -> None:
    assert problem in problems_of(body)


@pytest.mark.parametrize("number", [2, 99])
def test_an_inactive_or_unknown_account_sends_nothing(number: int) -> None:
    assert problems_of(message(), account_id=number) == [("", "account_inactive")]


def test_an_account_without_a_sender_of_its_own_must_name_one() -> None:
    body = message(**{"from": "a@other.test"})
    assert problems_of(body, account_id=3) == [("/sender", "required")]
    assert planned(body | {"sender": "theirs"}, account_id=3).submission.sender_id == 3


def test_all_that_is_wrong_is_told_at_once_below_the_offers_own_pointer() -> None:
    with pytest.raises(SubmissionRefused) as caught:
        parse_offer(message(subject="a\nb", priority="x", nope=1), pointer="/messages/3")
    assert {problem.pointer for problem in caught.value.problems} == {
        "/messages/3/subject",
        "/messages/3/priority",
        "/messages/3/nope",
    }


def test_a_flood_of_problems_is_cut() -> None:
    with pytest.raises(SubmissionRefused) as caught:
        parse_offer({f"field {number}": 1 for number in range(1000)})
    assert len(caught.value.problems) == 100


def test_a_sender_with_a_relay_needs_no_dns() -> None:
    policy = replace(POLICY, relays={2: Relay(2, "relay.test", 587)})
    offer = parse_offer(message(sender=2, to=["a@x.test", "b@y.test"]))
    plan = plan_submission(offer, policy=policy, account_id=1, message_id=MESSAGE_ID, now=NOW)
    assert {domain: site.name for domain, site in plan.sites.items()} == {
        "x.test": "relay:relay.test:587/2",
        "y.test": "relay:relay.test:587/2",
    }
    assert planned(message(sender=1)).sites == {}

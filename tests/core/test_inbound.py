"""What a message in a mailbox is, whom it is about, and what it tells."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore import tokens
from mailcore.classify.inbound import Correlation, InboundKind, read_inbound
from mailcore.classify.replies import compile_patterns
from mailcore.events import Event, EventKind, event_id, reference_name
from mailcore.inbound import Facts, Fate, Told, facts_of, tell
from mailcore.outcome import BounceClass, BounceType
from mailcore.policy.model import BouncePattern
from mailcore.policy.words import MailboxPurpose
from mailcore.report import build_report, report_of, way_of
from mailcore.stats import stop_entry
from mailcore.stoplist import StopCause
from tests.contract.make_golden import MESSAGE_ID
from tests.core.reports import CORPUS, HEADER, RING, expected, read, samples, shown
from tests.support import builders
from tests.support.reporting import CONTENT, NOW
from tests.support.reporting import event as owed

GONE = BouncePattern(
    1, "gone", 0, BounceType.HARD, BounceClass.INVALID_RECIPIENT, r"^550.*(5\.1\.1|no such)", "", 1
)
PATTERNS = compile_patterns([GONE])
DELIVERED = Event(
    event_id="d",
    kind="delivered",
    occurred_ms=1_000,
    message_id=str(MESSAGE_ID),
    recipient_no=0,
    claim_no=3,
    account_id=7,
    campaign="spring",
    source_id=5,
    isp_id=2,
    isp="Peer",
    recipient="ann@peer.test",
    recipient_hash="ab" * 16,
    attempt=2,
    code=250,
    reply="250 ok",
    queue_ms=99,
    dialogue_ms=9,
    tls_version="TLSv1.3",
)
ACCEPTED = replace(DELIVERED, event_id="a", kind="accepted", claim_no=0, source_id=0, attempt=0)
FACTS = {(str(MESSAGE_ID), 0): DELIVERED}


def sample(name: str) -> bytes:
    (path,) = CORPUS.glob(f"*/{name}*.eml")
    return path.read_bytes()


def told(name: str, facts: Facts = FACTS, *, account_id: int = 0) -> Told:
    return tell(
        read(sample(name)),
        facts,
        patterns=PATTERNS,
        account_id=account_id,
        now_ms=5_000,
        policy_revision=4,
    )


@pytest.mark.parametrize("path", samples("inbound"), ids=lambda path: path.stem)
def test_people_and_machines_are_told_apart(path: Path) -> None:
    assert shown(read(path.read_bytes())) == expected(path)


def test_a_bounce_that_comes_late_tells_the_class_and_keeps_what_was_known() -> None:
    one = told("01-postfix-unknown")
    assert one.fate is Fate.TOLD
    (event,) = one.events
    assert event.event_id == event_id(
        message_id=MESSAGE_ID, recipient_no=0, claim_no=0, kind=EventKind.LATE_BOUNCED
    )
    assert (event.kind, event.occurred_ms, event.claim_no) == ("late_bounced", 5_000, 0)
    assert (event.bounce_type, event.bounce_class, event.rule) == (
        "hard",
        "invalid_recipient",
        "gone",
    )
    assert (event.code, event.enhanced, event.stage) == (550, "5.1.1", "dsn")
    assert "<addr>" in event.reply_normal
    assert (event.account_id, event.campaign, event.source_id, event.isp) == (
        7,
        "spring",
        5,
        "Peer",
    )
    assert (event.queue_ms, event.dialogue_ms, event.tls_version) == (0, 0, "")
    assert reference_name(EventKind.LATE_BOUNCED, bounce_type=event.bounce_type) == "hbounce"
    entry = stop_entry(event)
    assert entry is not None
    assert (entry.cause, entry.account_id) == (StopCause.HARD_BOUNCE, 7)


def test_a_message_given_up_for_a_soft_cause_stops_nobody() -> None:
    (event,) = told("03-postfix-given-up").events
    assert (event.bounce_type, event.bounce_class) == ("soft", "connection")
    assert stop_entry(event) is None


def test_a_complaint_stops_the_address() -> None:
    (event,) = told("01-abuse").events
    assert (event.kind, event.stage, event.reply) == ("complained", "arf", "abuse: BigLoop/1.0")
    entry = stop_entry(event)
    assert entry is not None
    assert entry.cause is StopCause.COMPLAINT


def test_an_answer_is_told_and_stops_nobody() -> None:
    (event,) = told("04-human-reply").events
    assert (event.kind, event.reply, event.code) == ("replied", "Re: Spring", 0)
    assert stop_entry(event) is None


@pytest.mark.parametrize(
    ("name", "fate"),
    [
        ("02-postfix-delayed", Fate.NOTED),
        ("12-success", Fate.NOTED),
        ("03-not-spam", Fate.NOTED),
        ("01-out-of-office", Fate.NOTED),
        ("05-spam", Fate.NOTED),
        ("20-forged-token", Fate.FORGED),
        ("21-no-token", Fate.UNCORRELATED),
        ("06-reply-with-a-message-id", Fate.UNCORRELATED),
    ],
)
def test_what_tells_nothing_is_counted_by_its_fate(name: str, fate: Fate) -> None:
    assert told(name) == Told(fate)


def test_what_nothing_is_known_of_yet_is_postponed() -> None:
    assert told("01-postfix-unknown", {}) == Told(Fate.POSTPONED)
    assert told("16-nested", FACTS) == Told(Fate.POSTPONED)  # of recipient 1


def test_a_mailbox_of_an_account_tells_of_its_own_mail_alone() -> None:
    assert told("01-postfix-unknown", account_id=7).fate is Fate.TOLD
    assert told("01-postfix-unknown", account_id=8) == Told(Fate.FOREIGN)


def test_a_failure_behind_a_list_is_not_the_lists() -> None:
    facts = {(str(MESSAGE_ID), 0): replace(DELIVERED, recipient="team@lists.test")}
    assert told("14-several", facts) == Told(Fate.NOTED)


# --- a token of all recipients ------------------------------------------------------------------

WHOLE = tokens.sign(tokens.MessageToken(MESSAGE_ID, tokens.ALL_RECIPIENTS), ring=RING)
OTHERS = {
    (str(MESSAGE_ID), n): replace(DELIVERED, recipient_no=n, recipient=name)
    for n, name in enumerate(("ann@peer.test", "bob@peer.test", "cid@peer.test"))
}
REPORT = (
    b"To: <b-%b@bounce.test>\r\nSubject: failed\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/report; report-type=delivery-status; boundary="x"\r\n\r\n'
    b"--x\r\n\r\nSorry.\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n"
    b"Reporting-MTA: dns; mx.peer.test\r\n%b\r\n--x--\r\n"
)
GROUP = b"\r\nFinal-Recipient: rfc822; %b\r\nAction: %b\r\nStatus: %b\r\n"


def report(*groups: tuple[bytes, bytes, bytes], to: str = WHOLE) -> bytes:
    return REPORT % (to.encode(), b"".join(GROUP % group for group in groups))


def tell_of(octets: bytes, facts: Facts = OTHERS) -> Told:
    return tell(
        read(octets), facts, patterns=PATTERNS, account_id=0, now_ms=5_000, policy_revision=9
    )


def test_a_report_to_a_message_tells_of_each_recipient_it_names() -> None:
    one = tell_of(
        report(
            (b"Ann@peer.test", b"failed", b"5.1.1"),
            (b"cid@peer.test", b"failed", b"5.2.2"),
            (b"bob@peer.test", b"delayed", b"4.4.1"),
        )
    )
    assert one.fate is Fate.TOLD
    assert [(event.kind, event.recipient, event.enhanced) for event in one.events] == [
        ("late_bounced", "ann@peer.test", "5.1.1"),
        ("late_bounced", "cid@peer.test", "5.2.2"),
    ]
    assert len({event.event_id for event in one.events}) == 2


def test_a_report_to_a_message_that_names_a_stranger_tells_of_nobody() -> None:
    assert tell_of(report((b"eve@peer.test", b"failed", b"5.1.1"))) == Told(Fate.UNTRACED)
    assert tell_of(report((b"ann@peer.test", b"failed", b"5.1.1")), {}) == Told(Fate.POSTPONED)


def test_the_one_recipient_of_a_message_is_meant_whatever_the_report_calls_him() -> None:
    facts = {(str(MESSAGE_ID), 0): DELIVERED}
    (event,) = tell_of(report((b"forwarded@else.test", b"failed", b"5.1.1")), facts).events
    assert event.recipient == "ann@peer.test"


def test_a_complaint_to_a_message_is_the_recipients_it_names() -> None:
    octets = sample("01-abuse")
    old = re.findall(rb"[a-z2-7]{44}", octets)[0]
    named = octets.replace(old, WHOLE.encode()).replace(b"ann@bigmail.test", b"bob@peer.test")
    (event,) = tell_of(named).events
    assert (event.kind, event.recipient) == ("complained", "bob@peer.test")
    redacted = named.replace(b"Original-Rcpt-To: <bob@peer.test>", b"X-Nobody: here")
    assert tell_of(redacted) == Told(Fate.UNTRACED)


def test_an_answer_to_a_message_is_its_senders() -> None:
    answer = (
        b"To: <b-%b@bounce.test>\r\nFrom: Bob <bob@peer.test>\r\nIn-Reply-To: <x@y.test>\r\n"
        b"Subject: Re: hello\r\n\r\nThanks\r\n"
    )
    (event,) = tell_of(answer % WHOLE.encode()).events
    assert (event.kind, event.recipient) == ("replied", "bob@peer.test")


def test_in_a_mailbox_for_complaints_a_forwarded_message_is_one() -> None:
    octets = sample("07-forwarded")
    assert read(octets).kind is InboundKind.OTHER
    one = read(octets, purpose=MailboxPurpose.COMPLAINTS)
    assert (one.kind, one.correlation) == (InboundKind.COMPLAINT, Correlation.RETURNED)


def test_the_same_report_makes_the_same_event() -> None:
    (first,), (second,) = told("01-postfix-unknown").events, told("04-exim").events
    assert first is not None
    assert second is not None
    assert first.event_id == second.event_id


@given(st.permutations([DELIVERED, ACCEPTED, replace(DELIVERED, kind="late_bounced")]))
def test_who_was_given_the_message_knows_more_than_who_accepted_it(events: list[Event]) -> None:
    assert facts_of(asdict(event) for event in events) == FACTS
    assert facts_of([asdict(ACCEPTED)]) == {(str(MESSAGE_ID), 0): ACCEPTED}


def test_a_key_that_is_gone_makes_a_token_worthless() -> None:

    octets = sample("01-postfix-unknown")
    told = read_inbound(octets, ring={2: bytes(32)}, headers=["X-Postfleet-Token"])
    assert (told.token, told.correlation) == (None, Correlation.REFUSED)


def test_a_nodes_own_name_of_the_header_is_looked_for() -> None:

    octets = sample("02-redacted").replace(b"X-Postfleet-Token", b"X-Own")
    assert read_inbound(octets, ring=RING, headers=["X-Postfleet-Token"]).token is None
    assert read_inbound(octets, ring=RING, headers=["X-Postfleet-Token", "x-own"]).token is not None


def test_a_report_of_our_own_in_a_mailbox_of_ours_is_about_no_message() -> None:
    """Its own token stands in its header; read as that of a bounce, it would stop the sender."""
    report = report_of(owed())
    assert report is not None
    way = way_of(report, builders.policy(), host="mx.sender.test")
    assert way is not None
    built = build_report(report, way, content=CONTENT, host="mx.sender.test", now=NOW)
    token = tokens.sign(tokens.MessageToken(MESSAGE_ID, 0), ring=RING)
    inbound = read(f"{HEADER}: {token}\r\n".encode() + built)
    assert inbound.kind is InboundKind.BOUNCE
    assert inbound.correlation is Correlation.NONE


def test_what_was_known_of_the_message_is_told_with_a_late_bounce_so_that_it_can_be_reported() -> (
    None
):
    facts = {(str(MESSAGE_ID), 0): replace(DELIVERED, dsn="S Pa@b.test C1.2.3.4")}
    (event,) = told("01-postfix-unknown", facts).events
    assert event.dsn == "S Pa@b.test C1.2.3.4"

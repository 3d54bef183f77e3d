"""What a client asked for reads back from a row and from an event as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.disposition import plan_expired, plan_purged, write_rulebook
from mailcore.dsn import (
    DsnFacts,
    DsnOrder,
    DsnRequest,
    DsnReturn,
    Notify,
    asks_for_delay,
    facts_text,
    from_xtext,
    printable_xtext,
    xtext,
)
from mailcore.envelope import ContentRef
from mailcore.errors import SchemaError
from mailcore.events import EventKind
from mailcore.outcome import Verdict
from mailcore.policy.model import SendingDomain
from tests.core import delivery

REF = ContentRef(1, 2, 3, 4)
BARE = DsnOrder().to_text()
NOTIFIES = st.one_of(
    st.just(frozenset({Notify.NEVER})),
    st.frozensets(st.sampled_from([Notify.SUCCESS, Notify.FAILURE, Notify.DELAY])),
)
ORDERS = st.builds(
    DsnOrder,
    returns=st.none() | st.sampled_from(DsnReturn),
    envid=st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    notify=NOTIFIES,
    orcpt=st.just("") | st.text(max_size=20).map(lambda text: f"rfc822;{xtext(text)}"),
    due_ms=st.integers(0, 2**50),
    requires_tls=st.booleans(),
)


@given(ORDERS)
def test_an_order_reads_back(order: DsnOrder) -> None:
    assert DsnOrder.parse(order.to_text()) == order
    assert asks_for_delay(order.to_text()) is (Notify.DELAY in order.notify)


@given(ORDERS, st.text(), st.booleans(), st.booleans())
def test_facts_read_back(order: DsnOrder, path: str, passed_on: bool, local: bool) -> None:
    path = path.encode("utf-8", "replace").decode()
    text = facts_text(
        order.to_text(),
        reverse_path=path,
        content=REF,
        expires_ms=5,
        is_passed_on=passed_on,
        is_local=local,
    )
    assert DsnFacts.parse(text) == DsnFacts(order, path, REF, 5, passed_on, local)


def test_mail_that_asks_for_nothing_costs_one_letter_and_no_parameter() -> None:
    assert BARE == "S"
    assert DsnOrder.parse("S").request(returns_to_us=False) is None


def test_what_a_newer_writer_added_is_left_out() -> None:
    assert DsnOrder.parse("S Zfuture Ns") == DsnOrder(notify=frozenset({Notify.SUCCESS}))


@pytest.mark.parametrize("text", ["", "Q", "S Nq", "S RX", "S Tx", "S E+FF"])
def test_a_text_that_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        DsnOrder.parse(text)


def test_parameters_become_an_order() -> None:
    mail = DsnOrder.of_mail(ret="HDRS", envid="a+2Bb", due_ms=7)
    assert mail == DsnOrder(DsnReturn.HEADERS, "a+b", due_ms=7)
    order = mail.of_rcpt("SUCCESS,DELAY", "rfc822;x")
    assert order.notify == {Notify.SUCCESS, Notify.DELAY}
    assert order.request(returns_to_us=False) == DsnRequest(
        "a+b", DsnReturn.HEADERS, order.notify, orcpts=("rfc822;x",)
    )


def test_a_report_of_success_is_not_asked_for_where_it_would_come_to_us() -> None:
    order = DsnOrder(notify=frozenset({Notify.SUCCESS, Notify.FAILURE}))
    request = order.request(returns_to_us=True)
    assert request is not None
    assert request.notify == {Notify.FAILURE}
    never = DsnOrder(notify=frozenset({Notify.NEVER})).request(returns_to_us=True)
    assert never == DsnRequest(notify=frozenset({Notify.NEVER}))


def test_failures_are_told_unless_something_else_was_asked_for() -> None:
    assert DsnOrder().wants(Notify.FAILURE)
    assert not DsnOrder().wants(Notify.SUCCESS)
    assert not DsnOrder().wants(Notify.DELAY)
    assert not DsnOrder(notify=frozenset({Notify.DELAY})).wants(Notify.FAILURE)
    assert not DsnOrder(notify=frozenset({Notify.NEVER})).wants(Notify.FAILURE)


def test_only_printable_ascii_is_an_envelope_id() -> None:
    assert printable_xtext("a+20b") == "a b"
    for text in ("a+0Ab", "+C3+A9", "+FF", "+7F"):
        assert printable_xtext(text) is None
    assert from_xtext("+C3+A9") == "é"


# ── what events keep ──────────────────────────────────────────────────────────────────────────


def kept(*, dsn: str = "S Nsfd", code: int = 250, verdict: Verdict = Verdict.DELIVERED) -> str:
    row = replace(delivery.ROW, dsn=dsn)
    (event,) = delivery.decide(delivery.outcome(code, verdict=verdict), row=row).events
    return event.dsn


def test_events_of_other_mail_keep_nothing() -> None:
    assert kept(dsn="") == ""
    assert kept(dsn="", code=550, verdict=Verdict.BOUNCED) == ""


def test_an_event_keeps_what_its_report_needs() -> None:
    facts = DsnFacts.parse(kept())
    assert facts.order == DsnOrder.parse("S Nsfd")
    assert facts.reverse_path == "bounce@shop.test"
    assert facts.content == delivery.ROW.content
    assert facts.expires_ms == round(delivery.ROW.expires_at.timestamp() * 1000)
    assert not facts.is_local
    assert not facts.is_passed_on


def test_a_deferral_keeps_it_only_for_who_wants_to_hear_of_delays() -> None:
    assert kept(code=450, verdict=Verdict.DEFERRED, dsn="S Nsfd") != ""
    for text in (BARE, "S Nsf", "S Ed Od"):
        assert kept(code=450, verdict=Verdict.DEFERRED, dsn=text) == ""


def test_a_message_without_a_sender_keeps_nothing() -> None:
    row = replace(delivery.ROW, dsn="S", reverse_path=type(delivery.ROW.reverse_path)("", ""))
    (event,) = delivery.decide(delivery.outcome(), row=row).events
    assert event.dsn == ""


def passed_on(return_path_domain: str, *, offers_dsn: bool) -> bool:
    policy = replace(
        delivery.policy(),
        sending_domains={"shop.test": SendingDomain(1, "shop.test", (11,), return_path_domain)},
    )
    session = replace(delivery.SESSION, offers_dsn=offers_dsn)
    outcome = replace(delivery.outcome(verdict=Verdict.DELIVERED), session=session)
    row = replace(delivery.ROW, dsn="S Ns")
    (event,) = delivery.decide(outcome, row=row, rules=write_rulebook(policy)).events
    return DsnFacts.parse(event.dsn).is_passed_on


def test_success_is_passed_on_where_the_next_server_reports_to_the_sender_itself() -> None:
    assert passed_on("", offers_dsn=True)
    assert not passed_on("", offers_dsn=False)
    assert not passed_on("bounce.shop.test", offers_dsn=True)  # it would report to us


def test_ends_without_an_attempt_keep_it_too_and_say_whose_purge_it_was() -> None:
    row = replace(delivery.ROW, dsn="S")
    told = plan_expired([row], rules=delivery.RULES, node="n1", now=delivery.NOW)
    assert DsnFacts.parse(told.events[0].dsn).is_local
    reply = delivery.outcome().reply
    for is_own in (True, False):
        purged = plan_purged(
            [row],
            reply=reply,
            rules=delivery.RULES,
            node="n1",
            now=delivery.NOW,
            is_own=is_own,
        )
        assert purged.events[0].kind == EventKind.PURGED.value
        assert purged.events[0].rule == ("account" if is_own else "")


@pytest.mark.parametrize("ret", ["", "FULL", "HDRS"])
def test_of_mail_with_requiretls_nobody_is_asked_to_return_more_than_the_header(ret: str) -> None:
    order = DsnOrder.of_mail(ret=ret, envid="", requires_tls=True)
    request = order.request(returns_to_us=True)
    assert request is not None
    assert request.returns is DsnReturn.HEADERS

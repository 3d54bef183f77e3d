"""Letters of many sessions share a commit; one that cannot be stored costs the others nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from mailcore.outcome import MailClass
from mailcore.ports import PolicySource, StoreFull
from mailio.clock import LedgerClock
from mailio.intake import Answer, Intake, Request
from mailio.ledger.accept_values import AcceptStatus
from mailio.letters import LetterIntake, Stamp, TokenCheck
from mailio.pressure import is_urgent
from tests.io.test_intake import plan


class Picky:
    """An intake that cannot store one of the requests, nor any batch that it is in."""

    def __init__(self, bad: Request | None = None) -> None:
        self.bad = bad
        self.stored: list[Request] = []

    def submit_all(self, requests: Sequence[Request]) -> list[Answer]:
        if any(request is self.bad for request in requests):
            raise ValueError("no column takes this")
        self.stored += requests
        return [self.answer() for _ in requests]

    def answer(self) -> Answer:
        return Answer(AcceptStatus.ACCEPTED, "id")


class Filling(Picky):
    """One that has room for priority mail alone."""

    def submit_all(self, requests: Sequence[Request]) -> list[Answer]:
        if not all(is_urgent(request.plans) for request in requests):
            raise StoreFull("spool", "no room")
        return super().submit_all(requests)


class Mute(Picky):
    """One that stores all and then gives answers nobody can tell."""

    def answer(self) -> Answer:
        return cast(Answer, None)


def request() -> Request:
    """Return a request of no plans; the stand-in looks at none."""
    return Request((), None, lambda _: "id")


def letters_into(intake: Picky) -> LetterIntake:
    return LetterIntake(
        cast(Intake, intake),
        cast(PolicySource, None),
        cast(TokenCheck, None),
        clock=LedgerClock(),
        stamp=Stamp("mx.test"),
    )


def test_only_the_letter_that_cannot_be_stored_is_put_off_and_each_is_stored_once() -> None:
    batch = [request(), request(), request()]
    intake = Picky(bad=batch[1])
    replies = letters_into(intake)._accept(batch)
    assert [reply.code for reply in replies] == [250, 451, 250]
    assert [id(one) for one in intake.stored] == [id(batch[0]), id(batch[2])]


def test_of_a_batch_without_room_the_priority_mail_is_taken_and_the_rest_told_452() -> None:
    bulk = Request((plan("a@x.test"),), None, lambda _: "id")
    urgent = Request((plan("b@x.test", mail_class=MailClass.PRIORITY),), None, lambda _: "id")
    intake = Filling()
    replies = letters_into(intake)._accept([bulk, urgent, bulk])
    assert [reply.code for reply in replies] == [452, 250, 452]
    assert intake.stored == [urgent]


def test_what_breaks_after_the_commit_submits_nothing_again() -> None:
    intake = Mute()
    batch = [request(), request()]
    with pytest.raises(AttributeError):
        letters_into(intake)._accept(batch)
    assert len(intake.stored) == len(batch)

"""Letters of many sessions share a commit; one that cannot be stored costs the others nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from mailcore.ports import PolicySource
from mailio.clock import LedgerClock
from mailio.intake import Answer, Intake, Request
from mailio.ledger.accept_values import AcceptStatus
from mailio.letters import LetterIntake, Stamp, TokenCheck


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


def test_what_breaks_after_the_commit_submits_nothing_again() -> None:
    intake = Mute()
    batch = [request(), request()]
    with pytest.raises(AttributeError):
        letters_into(intake)._accept(batch)
    assert len(intake.stored) == len(batch)

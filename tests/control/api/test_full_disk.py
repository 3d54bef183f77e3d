"""A disk without room: nothing is accepted half, and programs are told what it is."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from control.submission import services
from mailio.clock import LedgerClock
from mailio.intake import Intake
from mailio.ledger.accept import Acceptor
from mailio.spool.segments import SegmentSpool
from tests.control.api.conftest import Api, Quiet, message, problem_of

pytestmark = pytest.mark.django_db


def test_below_the_stop_threshold_a_request_is_refused_whole_and_taken_later(
    api: Api, tmp_path: Path
) -> None:
    kept_free = [2**62]
    (pid,) = services._Doors.opened
    with (
        contextlib.closing(Acceptor(api.url)) as acceptor,
        contextlib.closing(SegmentSpool(tmp_path, min_free_bytes=lambda: kept_free[0])) as spool,
    ):
        intake = Intake(acceptor, spool, clock=LedgerClock(), waker=Quiet())
        services._Doors.opened[pid] = replace(services._Doors.opened[pid], intake=intake)
        answer = api.send(message(), Idempotency_Key="once")
        assert answer.status_code == 503
        assert problem_of(answer) == [("", "insufficient_storage")]
        assert answer["Retry-After"] == "60"
        assert api.contents() == []
        assert api.events() == []
        kept_free[0] = 0
        assert api.send(message(), Idempotency_Key="once").status_code == 202
    assert len(api.contents()) == 1

"""Sessions: reconnects, errors that pass and errors that are ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest

from mailcore.ports import StoreUnavailable
from mailio.ledger import arrays
from mailio.ledger.pool import ConnectionLost, Profile, RolledBack, Session
from tests.io.ledger.proxy import BreakingLine
from tests.io.ledger.world import query


@pytest.fixture
def session(dsn: str) -> Iterator[Session]:
    side = Session(dsn, role="test", statements={"one": "SELECT $1::int + 1"})
    yield side
    side.close()


def kill(session: Session) -> None:
    """End the server process behind a session."""
    query("SELECT pg_terminate_backend(%s, 5000)", session.backend_pid)


def test_a_session_lost_while_idle_is_opened_again(session: Session) -> None:
    assert session.backend_pid == 0
    assert session.failed_at is None
    assert session.call("one", (1,)) == [(2,)]
    kill(session)
    assert session.call("one", (2,)) == [(3,)]
    assert session.generation == 2
    assert session.failed_at is not None


def test_what_may_not_run_twice_is_told_of_the_loss(session: Session) -> None:
    session.call("one", (1,))
    kill(session)
    with pytest.raises(ConnectionLost, match="postgresql"):
        session.call("one", (1,), again=False)
    assert session.call("one", (1,), again=False) == [(2,)]


def test_a_line_that_stays_broken_ends_in_unavailable(dsn: str) -> None:
    line = BreakingLine(dsn)
    side = Session(line.dsn, role="test")
    with line:
        side.run("SELECT 1")
    with pytest.raises(StoreUnavailable):
        side.run("SELECT 1")
    side.close()


def test_a_statement_that_takes_too_long_is_unavailable_and_the_session_lives(dsn: str) -> None:
    side = Session(dsn, role="test", statement_timeout_s=0.05)
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        side.run("SELECT pg_sleep(10)")
    assert side.run("SELECT 1") == [(1,)]
    assert side.generation == 1
    side.close()


def test_a_wrong_statement_is_a_bug_and_says_so(session: Session) -> None:
    with pytest.raises(psycopg2.ProgrammingError):
        session.run("SELECT nothing FROM nowhere")
    with pytest.raises(psycopg2.DataError):
        session.call("one", ("x",))
    assert session.call("one", (1,)) == [(2,)]


def test_a_closed_session_stays_closed(session: Session) -> None:
    session.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        session.run("SELECT 1")


def test_a_standby_is_left_for_the_primary(session: Session) -> None:
    session.run("SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable, match="read-only"):
        session.run("DELETE FROM ledger_route")
    assert session.run("DELETE FROM ledger_route") == []


def test_a_transaction_is_whole_or_nothing(session: Session) -> None:
    def fail_half_way() -> None:
        with session.transaction() as execute:
            execute("INSERT INTO ledger_route VALUES ('a.test', 'x', 0, now())", ())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert session.run("SELECT count(*) FROM ledger_route") == [(0,)]
    with session.transaction() as execute:
        execute("INSERT INTO ledger_route VALUES ('a.test', 'x', 0, now())", ())
        execute("INSERT INTO ledger_route VALUES ('b.test', 'x', 0, now())", ())
    assert session.run("SELECT count(*) FROM ledger_route") == [(2,)]
    with session.transaction():
        pass
    assert session.call("one", (1,)) == [(2,)]


def test_a_deadlock_is_told_as_rolled_back(dsn: str) -> None:
    query("INSERT INTO ledger_route VALUES ('a', 'x', 0, now()), ('b', 'x', 0, now())")
    sides = [Session(dsn, role="test") for _ in range(2)]
    both = threading.Barrier(2)

    def lock(number: int) -> bool:
        names = ("a", "b") if number else ("b", "a")
        try:
            with sides[number].transaction() as execute:
                execute("SELECT 1 FROM ledger_route WHERE domain = %s FOR UPDATE", names[:1])
                both.wait(60)
                execute("SELECT 1 FROM ledger_route WHERE domain = %s FOR UPDATE", names[1:])
        except RolledBack:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(lock, range(2))) == [False, True]
    for side in sides:
        side.close()


def test_hot_sessions_plan_for_a_million_rows_when_there_are_none(dsn: str) -> None:
    side = Session(dsn, role="test", profile=Profile.HOT)
    names = ("plan_cache_mode", "enable_seqscan", "enable_hashjoin", "jit", "TimeZone")
    shown = [side.run(f"SHOW {name}")[0][0] for name in names]
    assert shown == ["force_generic_plan", "off", "off", "off", "UTC"]
    assert side.run("SHOW application_name") == [("postfleet-test",)]
    side.close()


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["a", "", 'quo"te', "back\\slash", "{brace},comma", "NULL", "null", " space ", "é☃\n\t"],
        ["no separator", "in\x1fside"],
    ],
)
def test_text_arrays_come_back_as_they_went(session: Session, values: list[str]) -> None:
    expected = [value.replace("\x1f", " ") for value in values]
    assert session.run("SELECT %s::text[]", (arrays.texts(values),)) == [(expected,)]


def test_number_arrays_keep_null_and_precision(session: Session) -> None:
    numbers = arrays.numbers([1, None, 0.1, 1e-7, -(2**40), True])
    assert session.run("SELECT %s::float8[]", (numbers,)) == [
        ([1.0, None, 0.1, 1e-7, -float(2**40), 1.0],)
    ]
    assert session.run("SELECT %s::int[]", (arrays.numbers([True, False, None]),)) == [
        ([1, 0, None],)
    ]

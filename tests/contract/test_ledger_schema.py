"""The ledger's tables: applied once by whoever comes first, and in step with the core's words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest

from mailcore.errors import PostfleetError
from mailcore.ports import StoreUnavailable
from mailio.ledger import (
    accept_sql,
    check_sql,
    delivery_sql,
    inbound,
    restore,
    routes,
    schema,
    spool_sql,
    upkeep_sql,
)
from mailio.ledger.pool import Profile, Session
from tests.support.stack import drop_postgres, postgres_url

# Of every version; a new one adds its own.
TABLES = {
    "campaign",
    "inbound_event",
    "installation",
    "ledger_cursor",
    "ledger_idempotency",
    "ledger_incarnation",
    "ledger_lane",
    "ledger_outbox",
    "ledger_outbox_refused",
    "ledger_restore",
    "ledger_route",
    "ledger_row",
    "ledger_schema",
    "ledger_witness",
    "mailbox_poll",
    "mailbox_seen",
    "mailbox_tally",
    "queue_age",
    "queue_check",
    "queue_finding",
    "queue_hold",
    "queue_undo",
    "spool_home",
    "spool_node",
    "spool_sample",
    "stop_entry",
    "sts_policy",
}


def tables(url: str) -> set[str]:
    """Return the tables of a database."""
    session = Session(url, role="test")
    found = session.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    session.close()
    return {str(row[0]) for row in found}


def test_migrating_again_or_at_once_does_nothing(postgres_database: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(schema.migrate, [postgres_database] * 4))
    assert versions == [int(schema.versions()[-1])] * 4
    assert tables(postgres_database) == TABLES
    assert schema.migrate(postgres_database) == versions[0]


def test_a_migration_framework_may_run_the_script_before_or_after(postgres_database: str) -> None:
    for _ in range(2):
        connection = psycopg2.connect(postgres_database)
        with connection, connection.cursor() as cursor:
            cursor.execute(schema.sql("0001"))
        connection.close()
        assert schema.migrate(postgres_database) == int(schema.versions()[-1])
    assert tables(postgres_database) == TABLES


def test_a_script_that_is_rolled_back_leaves_nothing(postgres_database: str) -> None:
    connection = psycopg2.connect(postgres_database)
    with connection.cursor() as cursor:
        cursor.execute(schema.sql("0001"))
    connection.rollback()
    connection.close()
    assert tables(postgres_database) == set()


def test_an_unknown_version_and_an_absent_server_are_named() -> None:
    with pytest.raises(LookupError, match="9999"):
        schema.sql("9999")
    with pytest.raises(StoreUnavailable, match="postgresql"):
        schema.migrate("postgresql://nobody@127.0.0.1:1/none")


def test_a_ledger_without_tables_says_what_to_do(postgres_database: str) -> None:
    session = Session(
        postgres_database, role="test", profile=Profile.HOT, statements=delivery_sql.CLAIMS
    )
    with pytest.raises(PostfleetError, match="not migrated"):
        session.run("SELECT 1")
    session.close()


def test_every_statement_is_prepared_by_the_oldest_schema_it_meets(postgres_database: str) -> None:
    schema.migrate(postgres_database)
    for statements in (
        accept_sql.COMMITS,
        accept_sql.LOOKUPS,
        delivery_sql.CLAIMS,
        delivery_sql.SETTLES,
        delivery_sql.LOOKS,
        routes.STATEMENTS,
        upkeep_sql.STATEMENTS,
        inbound.STATEMENTS,
        spool_sql.STATEMENTS,
        check_sql.STATEMENTS,
        restore.STATEMENTS,
    ):
        session = Session(postgres_database, role="test", statements=statements)
        prepared = session.run("SELECT name FROM pg_prepared_statements")
        assert {row[0] for row in prepared} == set(statements)
        session.close()


@pytest.fixture
def postgres_database() -> object:
    url = postgres_url()
    yield url
    drop_postgres(url)

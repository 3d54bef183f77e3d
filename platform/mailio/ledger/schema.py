"""The ledger's tables: their text, and how a database gets them.

Gives    versions, sql (for a Django RunSQL migration), migrate (for everybody else)
Takes    ddl/NNNN.sql beside this module, the one home of the tables
Raises   StoreUnavailable when the database cannot be reached; LookupError for an unknown version

What `sql` returns guards itself: it takes an advisory lock, looks into `ledger_schema` and does
nothing if its version is there. So it does not matter who comes first, Django's migration or
`migrate`, nor whether two come at once.
"""

from __future__ import annotations

from pathlib import Path

import psycopg2

from mailcore.ports import StoreUnavailable

_DDL = Path(__file__).parent / "ddl"
_LOCK = 0x6C65646765720001

_GUARDED = """\
SELECT pg_advisory_xact_lock({lock});
CREATE TABLE IF NOT EXISTS ledger_schema (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
DO $guard$
BEGIN
    IF NOT EXISTS (SELECT FROM ledger_schema WHERE version = {number}) THEN
        EXECUTE $ddl$
{text}
        $ddl$;
        INSERT INTO ledger_schema (version) VALUES ({number});
    END IF;
END
$guard$;
"""


def versions() -> tuple[str, ...]:
    """Return the versions there are, oldest first: `("0001", …)`."""
    return tuple(sorted(path.stem for path in _DDL.glob("[0-9][0-9][0-9][0-9].sql")))


def sql(version: str) -> str:
    """Return the script that brings a database to `version`; running it again does nothing.

    It must run in one transaction (RunSQL does), because its lock lasts that long.
    """
    if version not in versions():
        raise LookupError(f"the ledger has no schema version {version!r}")
    text = (_DDL / f"{version}.sql").read_text(encoding="utf-8").strip()
    return _GUARDED.format(lock=_LOCK, number=int(version), text=text)


def migrate(dsn: str) -> int:
    """Bring a database to the newest version; return its number. Safe to run at any time."""
    try:
        connection = psycopg2.connect(dsn, connect_timeout=10, application_name="postfleet-schema")
    except psycopg2.OperationalError as exc:
        raise StoreUnavailable("postgresql", str(exc).strip()) from exc
    try:
        # Tables that exist already are the usual case; their notices are noise.
        with connection, connection.cursor() as cursor:
            cursor.execute("SET LOCAL client_min_messages = warning")
            for version in versions():
                cursor.execute(sql(version))
            cursor.execute("SELECT max(version) FROM ledger_schema")
            row = cursor.fetchone()
    except psycopg2.OperationalError as exc:
        raise StoreUnavailable("postgresql", str(exc).strip()) from exc
    finally:
        connection.close()
    return int(row[0]) if row else 0

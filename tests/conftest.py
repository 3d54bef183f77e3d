"""What every suite shares: Django's database stays out of the suites that must not need it.

Gives: a usage error that names each test of core, io, workers or browser which asks for Django's
    database, by the mark, by a fixture or by a base class. io reaches the ledger by psycopg2;
    writeback is tested in tests/control.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SUITES_WITHOUT_ORM = frozenset({"browser", "core", "io", "workers"})
DATABASE_FIXTURES = frozenset(
    {
        "admin_client",
        "admin_user",
        "async_admin_client",
        "db",
        "django_db_reset_sequences",
        "django_db_serialized_rollback",
        "live_server",
        "transactional_db",
    }
)


def asks_for_django_database(item: pytest.Item) -> bool:
    """Return whether a test asks for Django's database in any of the three ways."""
    if item.get_closest_marker("django_db") is not None:
        return True
    if DATABASE_FIXTURES.intersection(getattr(item, "fixturenames", ())):
        return True
    cases = sys.modules.get("django.test.testcases")
    owner = getattr(item, "cls", None)
    return cases is not None and owner is not None and issubclass(owner, cases.TransactionTestCase)


def refused_tests(items: Iterable[pytest.Item]) -> list[str]:
    """Return the tests that ask for Django's database where it is banned."""
    return [
        item.nodeid
        for item in items
        if TESTS in item.path.parents
        and item.path.relative_to(TESTS).parts[0] in SUITES_WITHOUT_ORM
        and asks_for_django_database(item)
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse the whole run: a test moved out of its suite must not look like a passing one."""
    refused = refused_tests(items)
    if refused:
        banned = ", ".join(sorted(SUITES_WITHOUT_ORM))
        raise pytest.UsageError(
            f"Django's database is banned in the suites {banned}: {', '.join(refused)}"
        )

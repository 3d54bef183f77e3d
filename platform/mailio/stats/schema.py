"""The tables of the statistics: numbered steps, each in a part for every server and one for new.

Gives    steps, migrate, TABLES
Takes    ddl/NNNN_base.sql and ddl/NNNN_extras.sql beside this module, the one home of the tables
Raises   Fault, StoreUnavailable

Any process may migrate at its start, also several at once: every statement may be run again, and a
step is noted when it is through. Extras are noted apart, so a server that was upgraded gets them.
"""

from __future__ import annotations

import re
from pathlib import Path

from mailio.stats.driver import COLUMN_EXISTS, UNKNOWN_DATABASE, Driver, Fault

_DDL = Path(__file__).parent / "ddl"
_EXTRAS_FROM = 22
_NOTES = """\
CREATE TABLE IF NOT EXISTS schema_step (name String, applied_at DateTime('UTC') DEFAULT now())
ENGINE = ReplacingMergeTree() ORDER BY name"""


def steps(*, is_new: bool) -> tuple[str, ...]:
    """Return the names of the steps a server takes, in order: "0001_base", "0001_extras", …"""
    names = sorted(path.stem for path in _DDL.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return tuple(name for name in names if is_new or name.endswith("_base"))


def migrate(driver: Driver) -> tuple[str, ...]:
    """Bring the database to the newest step; return what was applied now."""
    try:
        major = _major(driver)
    except Fault as fault:
        if fault.code != UNKNOWN_DATABASE:
            raise
        driver.create_database()
        major = _major(driver)
    driver.execute(_NOTES)
    done = {name for (name,) in driver.query("SELECT DISTINCT name FROM schema_step")}
    todo = tuple(s for s in steps(is_new=major >= _EXTRAS_FROM) if s not in done)
    for step in todo:
        for statement in statements(step):
            _run(driver, statement)
        driver.execute(f"INSERT INTO schema_step (name) SELECT '{step}'")
    return todo


def statements(step: str) -> list[str]:
    """Return the statements of a step, without comments."""
    text = (_DDL / f"{step}.sql").read_text(encoding="utf-8")
    bare = re.sub(r"^\s*--.*\n", "", text, flags=re.MULTILINE)
    return [part.strip() for part in re.split(r";\s*\n", bare) if part.strip()]


def _major(driver: Driver) -> int:
    ((version,),) = driver.query("SELECT version()")
    return int(str(version).split(".")[0])


def _run(driver: Driver, statement: str) -> None:
    try:
        driver.execute(statement)
    except Fault as fault:
        if fault.code not in COLUMN_EXISTS or "ADD COLUMN" not in statement:
            raise

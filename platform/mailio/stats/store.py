"""The events for good, exact counts of them, and the roll-ups.

Gives    open_statistics, ClickhouseStatistics
Takes    an address of a server or of an embedded engine
Raises   StoreUnavailable; SchemaError for bodies that can never be stored; SettingsError
Follows  design.md sections 2 and 3 step 8

An event is a row named by its event_id. Counts are of distinct events whatever was inserted how
often; the roll-ups are computed from distinct events as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from mailcore.events import FIELDS, FINAL_KINDS
from mailcore.stats import NO_MESSAGE, lines_of
from mailio.settings import SettingsError
from mailio.stats import roll_up, schema
from mailio.stats.chdb import ChdbDriver
from mailio.stats.clickhouse import ClickhouseDriver
from mailio.stats.driver import Driver, Row, faults, minutes_literal, text_literal
from mailio.stats.reports import Reports

MAX_MINUTES = 500

_DRIVERS: dict[str, Callable[..., Driver]] = {
    "chdb+unix": ChdbDriver,
    "clickhouse": ClickhouseDriver,
    "clickhouses": ClickhouseDriver,
}


def open_driver(url: str, *, reply_s: float = 60.0) -> Driver:
    """Return the way to the engine at an address; nothing is connected yet. A silence of
    `reply_s` is taken for an absence."""
    scheme = urlsplit(url).scheme
    if scheme not in _DRIVERS:
        known = ", ".join(f"{name}://" for name in sorted(_DRIVERS))
        raise SettingsError(f"CLICKHOUSE_URL: {scheme}:// is none of {known}")
    try:
        return _DRIVERS[scheme](url, reply_s=reply_s)
    except ValueError as exc:
        raise SettingsError(f"CLICKHOUSE_URL: {exc}") from exc


def open_statistics(url: str, *, reply_s: float = 60.0) -> ClickhouseStatistics:
    """Return the statistics at an address, as `open_driver` does."""
    return ClickhouseStatistics(open_driver(url, reply_s=reply_s))


class ClickhouseStatistics:
    """Statistics in one database. Thread-safe."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.reports = Reports(driver)

    def migrate(self) -> tuple[str, ...]:
        """Bring the tables to the newest step; return what was applied. Safe at any time."""
        with faults():
            return schema.migrate(self._driver)

    def close(self) -> None:
        """Close all connections."""
        self._driver.close()

    def insert(self, bodies: Sequence[bytes]) -> int:
        """Store the events of outbox bodies; a repeat changes no count. Return how many.

        SchemaError if one of them can never be stored; others may have been stored then.
        """
        lines = b"".join(map(lines_of, bodies))
        count = lines.count(b"\n")
        if count:
            with faults():
                self._driver.insert("event", lines, count)
        return count

    def touch(self, minutes: Sequence[int]) -> None:
        """Note that the roll-ups of these minutes (Unix time // 60) are not what they should be."""
        for some in _portions(minutes):
            with faults():
                self._touch(some)

    def touched(self) -> Sequence[int]:
        """Return the minutes that were touched and not recomputed since, oldest first."""
        with faults():
            return [int(minute) for (minute,) in self._driver.query(roll_up.TOUCHED)]

    def recompute(self, minutes: Sequence[int]) -> None:
        """Compute the roll-ups of these minutes again from the events.

        What is touched meanwhile, by whomever, stays touched.
        """
        for some in _portions(minutes):
            with faults():
                self._recompute(some)

    def trace(self, message_id: UUID) -> Sequence[dict[str, object]]:
        """Return the distinct events of a message, oldest first, as rows of `events.Event`."""
        message = f"toUUID('{message_id}')"
        with faults():
            minutes = [
                minute
                for (minute,) in self._driver.query(
                    "SELECT DISTINCT intDiv(toUInt32(minute), 60) FROM message_by_minute"  # noqa: S608
                    f" WHERE message_id = {message}"
                )
            ]
            found: list[Row] = []
            for start in range(0, len(minutes), MAX_MINUTES):
                wanted = minutes_literal(minutes[start : start + MAX_MINUTES])
                found += self._driver.query(
                    f"SELECT {_EVENT_COLUMNS} FROM event"  # noqa: S608
                    f" WHERE minute IN ({wanted}) AND message_id = {message}"
                    " ORDER BY occurred_ms, claim_no, recipient_no LIMIT 1 BY event_id"
                )
        rows = [dict(zip(FIELDS, row, strict=True)) for row in found]
        for row in rows:
            row["message_id"] = "" if row["message_id"] == NO_MESSAGE else row["message_id"]
        return sorted(rows, key=_when)

    def counts(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        account_id: int | None = None,
        campaign: str | None = None,
    ) -> dict[str, int]:
        """Return how many distinct events of each kind occurred in [since, until)."""
        with faults():
            where = self._where(since, until, account_id, campaign)
            sql = f"SELECT kind, uniqExact(event_id) FROM event WHERE {where} GROUP BY kind"  # noqa: S608
            return {str(kind): int(count) for kind, count in self._driver.query(sql)}

    def final_counts(
        self,
        *,
        campaign: str | None = None,
        account_id: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> dict[str, int]:
        """Return how many recipients ended in each final kind, each counted once."""
        final = ",".join(sorted(text_literal(kind.value) for kind in FINAL_KINDS))
        with faults():
            where = self._where(since, until, account_id, campaign)
            sql = (
                "SELECT kind, uniqExact(message_id, recipient_no) FROM event"  # noqa: S608
                f" WHERE {where} AND kind IN ({final}) GROUP BY kind"
            )
            return {str(kind): int(count) for kind, count in self._driver.query(sql)}

    def recipients(self, *, campaign: str, kinds: Sequence[str]) -> list[tuple[str, str, int]]:
        """Return each kind and recipient of a campaign, with how many distinct events there are."""
        wanted = ",".join(sorted(map(text_literal, kinds)))
        with faults():
            where = self._where(None, None, None, campaign)
            sql = (
                "SELECT kind, recipient, uniqExact(event_id) FROM event"  # noqa: S608
                f" WHERE {where} AND kind IN ({wanted}) GROUP BY kind, recipient"
            )
            return [(str(kind), str(to), int(count)) for kind, to, count in self._driver.query(sql)]

    def _where(
        self,
        since: datetime | None,
        until: datetime | None,
        account_id: int | None,
        campaign: str | None,
    ) -> str:
        """Return a condition on events whose part on `minute` spares most of the table."""
        parts = ["1"]
        if since is not None:
            moment = _ms(since)
            parts.append(f"occurred_ms >= {moment} AND minute >= toDateTime({moment // 1000} - 60)")
        if until is not None:
            moment = _ms(until)
            parts.append(f"occurred_ms < {moment} AND minute <= toDateTime({moment // 1000})")
        if account_id is not None:
            parts.append(f"account_id = {int(account_id)}")
        if campaign is not None:
            label = text_literal(campaign)
            first, last = self._driver.query(
                "SELECT toUInt32(min(minute)), toUInt32(max(minute)) FROM campaign_by_minute"  # noqa: S608
                f" WHERE campaign = {label}"
            )[0]
            parts.append(f"minute >= toDateTime({first}) AND minute <= toDateTime({last})")
            parts.append(f"campaign = {label}")
        return " AND ".join(parts)

    def _version(self, minutes: Sequence[int]) -> int:
        sql = roll_up.newest_version(minutes_literal(minutes))
        ((version,),) = self._driver.query(sql)
        return int(version)

    def _touch(self, minutes: Sequence[int]) -> int:
        version = (self._version(minutes) // 2 + 1) * 2
        self._driver.execute(roll_up.set_version(minutes, version))
        return version

    def _recompute(self, minutes: Sequence[int]) -> None:
        version = self._version(minutes)
        if version % 2:
            # Nobody touched them: a version of their own tells this roll-up from a later touch.
            version = self._touch(minutes)
        listed, generation = minutes_literal(minutes), version // 2
        for table, compute in (
            ("roll_up", roll_up.roll_up),
            ("roll_up_reply", roll_up.roll_up_reply),
        ):
            self._driver.execute(compute(listed, generation))
            self._driver.execute(roll_up.minute_marks(table, minutes, generation))
        self._driver.execute(roll_up.set_version(minutes, version + 1))


_EVENT_COLUMNS = ", ".join(
    "toString(message_id) AS message_text" if name == "message_id" else name for name in FIELDS
)


def _portions(minutes: Sequence[int]) -> Iterator[Sequence[int]]:
    wanted = sorted(set(minutes))
    for start in range(0, len(wanted), MAX_MINUTES):
        yield wanted[start : start + MAX_MINUTES]


def _ms(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError("a time of the statistics has no zone")
    return round(moment.timestamp() * 1000)


def _when(row: dict[str, object]) -> tuple[object, ...]:
    # Within a millisecond the claim tells what came first; an accept has none.
    return row["occurred_ms"], row["claim_no"], row["recipient_no"], row["event_id"]

"""Take responsibility for messages: rows, lanes, outbox and idempotency keys, all or nothing.

Gives    Acceptor, and the values it takes and gives: AcceptBatch, AcceptMessage, AcceptRecipient,
         IdempotencyKey, AcceptResult; look-ups intake needs first (campaigns, routes, stop list)
Takes    messages whose content is durable already
Raises   StoreUnavailable. Then nothing was accepted, or (after a COMMIT that was never answered and
         a database that stayed away for `resolve_s`) nobody can know and nobody may be told 250
Follows  design.md section 3 step 1

Plain and thread-safe; one commit is in flight per Acceptor. A batch has an id (its first message's)
that goes into the outbox under a unique index, so after a broken connection the same batch is
simply sent again: it waits for the first try if that is still under way, and does nothing if that
went through. Keys are taken first, in the same transaction; messages whose key is taken already
leave the batch and harm nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

import psycopg2

from mailcore.ports import StoreUnavailable
from mailio.ledger import accept_sql, arrays
from mailio.ledger.accept_values import (
    AcceptBatch,
    Accepted,
    AcceptMessage,
    AcceptRecipient,
    AcceptResult,
    AcceptStatus,
    EventBody,
    IdempotencyKey,
    KnownRoute,
    StopReason,
    StoredAnswer,
)
from mailio.ledger.pool import STORE, ConnectionLost, Execute, Profile, RolledBack, Session
from mailio.ledger.spool_sql import INSTALLATION

__all__ = [
    "AcceptBatch",
    "AcceptMessage",
    "AcceptRecipient",
    "AcceptResult",
    "AcceptStatus",
    "Accepted",
    "Acceptor",
    "EventBody",
    "IdempotencyKey",
    "KnownRoute",
    "StopReason",
    "StoredAnswer",
]

_CACHE_LIMIT = 100_000
_ROUTE_CACHE_S = 30.0
_RETRY_PAUSE_S = 0.25
_TRIES = 5


class Acceptor:
    """The accepting side of the ledger."""

    def __init__(
        self, dsn: str, *, resolve_s: float = 20.0, statement_timeout_s: float = 15.0
    ) -> None:
        self._resolve_s = resolve_s
        self._commits = Session(
            dsn,
            role="accept",
            profile=Profile.ACCEPT,
            statements=accept_sql.COMMITS,
            statement_timeout_s=statement_timeout_s,
        )
        self._lookups = Session(
            dsn,
            role="accept-lookup",
            profile=Profile.HOT,
            statements=accept_sql.LOOKUPS,
            statement_timeout_s=statement_timeout_s,
        )
        self._stopped = threading.Event()
        self._installation = ""
        self._campaigns: dict[tuple[int, str], int] = {}
        self._routes: dict[str, tuple[float, KnownRoute]] = {}

    def accept(self, batch: AcceptBatch) -> AcceptResult:
        """Accept a batch in one transaction; say of each message what became of it."""
        if not batch.messages:
            return AcceptResult(())
        has_keys = any(message.idempotency for message in batch.messages)
        params = () if has_keys else _params(batch, batch.messages)
        deadline = 0.0
        rolled_back = 0
        while True:
            try:
                if has_keys:
                    return self._accept_with_keys(batch)
                self._commits.call("accept", params, again=False)
                return AcceptResult(tuple(_fate(message, {}) for message in batch.messages))
            except ConnectionLost:
                # Perhaps committed: sending it again tells, and does no harm.
                deadline = deadline or time.monotonic() + self._resolve_s
                self._reconnect(deadline)
            except RolledBack:
                rolled_back += 1
                if rolled_back > _TRIES:
                    raise

    def campaign_ids(self, account_id: int, labels: Collection[str]) -> dict[str, int]:
        """Return the number of each campaign of an account, making those that are new."""
        names = {label: arrays.stored(label) for label in labels}
        known = {
            name: number
            for name in set(names.values())
            if (number := self._campaigns.get((account_id, name))) is not None
        }
        missing = sorted(set(names.values()).difference(known))
        if missing:
            literal = arrays.texts(missing)
            found = self._lookups.call("campaigns", (account_id, literal))
            if len(found) < len(missing):
                self._lookups.call("campaigns_add", (account_id, literal))
                found = self._lookups.call("campaigns", (account_id, literal))
            if len(self._campaigns) > _CACHE_LIMIT:
                self._campaigns.clear()
            for name, number in found:
                known[str(name)] = self._campaigns[account_id, str(name)] = int(number)
        return {label: known[name] for label, name in names.items()}

    def known_routes(self, domains: Collection[str]) -> dict[str, KnownRoute]:
        """Return the routes of those domains that were resolved and whose TTL still runs."""
        now = time.monotonic()
        known: dict[str, KnownRoute] = {}
        missing = []
        for domain in set(domains):
            entry = self._routes.get(domain)
            if entry is not None and entry[0] > now:
                known[domain] = entry[1]
            else:
                missing.append(domain)
        if missing:
            if len(self._routes) > _CACHE_LIMIT:
                self._routes.clear()
            for domain, site, isp_id, left_s in self._lookups.call(
                "known_routes", (arrays.texts(missing),)
            ):
                route = KnownRoute(str(site), int(isp_id))
                self._routes[domain] = (now + min(float(left_s), _ROUTE_CACHE_S), route)
                known[domain] = route
        return known

    def stopped(self, account_id: int, hashes: Collection[str]) -> dict[str, StopReason]:
        """Return which of these recipient hashes the account, or everybody, must not mail."""
        if not hashes:
            return {}
        found = self._lookups.call(
            "stopped", (arrays.texts(list(hashes)), arrays.numbers((0, account_id)))
        )
        return {
            str(key): StopReason(int(owner), str(reason), str(detail))
            for key, owner, reason, detail in sorted(found)
        }

    def find_idempotent(self, account_id: int, key: str) -> StoredAnswer | None:
        """Return what a key was used for, None if it is free."""
        found = self._lookups.call(
            "stored_keys", (arrays.numbers((account_id,)), arrays.texts((key,)))
        )
        for _, _, body_hash, answer in found:
            return StoredAnswer(bytes.fromhex(body_hash), str(answer))
        return None

    def database_time(self) -> float:
        """Return the database's clock, in seconds since 1970."""
        row = self._lookups.run("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(row[0][0])

    def outbox_bytes(self) -> int:
        """Return about how much of the outbox waits for its slowest consumer."""
        return int(self._lookups.call("outbox_bytes", ())[0][0])

    def installation(self) -> str:
        """Return the id of the installation whose database this is."""
        if not self._installation:
            self._installation = str(self._lookups.run(INSTALLATION)[0][0])
        return self._installation

    def close(self) -> None:
        """Close the connections; a batch whose fate is being looked up gives up."""
        self._stopped.set()
        self._commits.close()
        self._lookups.close()

    def _reconnect(self, deadline: float) -> None:
        """Wait until the database answers again; StoreUnavailable when it stays away too long."""
        while True:
            try:
                self._commits.run("SELECT 1")
                return
            except StoreUnavailable:
                if time.monotonic() > deadline or self._stopped.wait(_RETRY_PAUSE_S):
                    raise

    def _accept_with_keys(self, batch: AcceptBatch) -> AcceptResult:
        wanted: dict[tuple[int, str], IdempotencyKey] = {}
        for message in batch.messages:
            key = message.idempotency
            if key is not None:
                wanted.setdefault(_name(key), key)
        with self._commits.transaction() as execute:
            stored = _take_keys(execute, list(wanted.values()))
            fates = tuple(_fate(message, stored) for message in batch.messages)
            taken = [
                message
                for message, fate in zip(batch.messages, fates, strict=True)
                if fate.status is AcceptStatus.ACCEPTED
            ]
            if taken:
                execute(f"EXECUTE accept ({_MARKS})", _params(batch, taken))
        return AcceptResult(fates)


_MARKS = ",".join(["%s"] * 27)


def _take_keys(
    execute: Execute, keys: Sequence[IdempotencyKey]
) -> dict[tuple[int, str], StoredAnswer]:
    """Store what keys are free; return what now stands under each."""
    inserted = execute(
        "EXECUTE add_keys (%s,%s,%s,%s)",
        (
            arrays.numbers([key.account_id for key in keys]),
            arrays.texts([key.key for key in keys]),
            arrays.texts([key.body_hash.hex() for key in keys]),
            arrays.texts([key.answer for key in keys]),
        ),
    )
    ours = {(int(account_id), str(key)) for account_id, key in inserted}
    stored = {
        _name(key): StoredAnswer(key.body_hash, arrays.stored(key.answer))
        for key in keys
        if _name(key) in ours
    }
    others = [key for key in keys if _name(key) not in ours]
    if others:
        for account_id, key, body_hash, answer in execute(
            "EXECUTE stored_keys (%s,%s)",
            (
                arrays.numbers([key.account_id for key in others]),
                arrays.texts([key.key for key in others]),
            ),
        ):
            answered = StoredAnswer(bytes.fromhex(body_hash), str(answer))
            stored[int(account_id), str(key)] = answered
    if len(stored) < len(keys):
        raise RolledBack(STORE, "an idempotency key was pruned while it was looked at")
    return stored


def _name(key: IdempotencyKey) -> tuple[int, str]:
    return key.account_id, arrays.stored(key.key)


def _fate(message: AcceptMessage, stored: Mapping[tuple[int, str], StoredAnswer]) -> Accepted:
    key = message.idempotency
    if key is None:
        return Accepted(message.message_id, AcceptStatus.ACCEPTED)
    found = stored[_name(key)]
    if found.body_hash != key.body_hash:
        return Accepted(message.message_id, AcceptStatus.REUSED)
    if found.answer != arrays.stored(key.answer):
        return Accepted(message.message_id, AcceptStatus.REPEATED, found.answer)
    # Stored just now, or by the first try of this very batch, whose COMMIT was not answered.
    return Accepted(message.message_id, AcceptStatus.ACCEPTED)


def _params(batch: AcceptBatch, messages: Sequence[AcceptMessage]) -> tuple[object, ...]:
    """Return the 27 parameters of the accept statement: one array a column. No row of a batch
    that asks for reports: the column's is empty."""
    events = batch.events(messages)
    pairs = [(message, to) for message in messages for to in message.recipients]
    numbers, texts = arrays.numbers, arrays.texts
    return (
        str(batch.messages[0].message_id),
        events.count,
        psycopg2.Binary(events.body),
        arrays.plain([m.message_id for m, _ in pairs]),
        numbers([m.account_id for m, _ in pairs]),
        numbers([m.sender_id for m, _ in pairs]),
        numbers([m.campaign_id for m, _ in pairs]),
        numbers([m.mail_class.value for m, _ in pairs]),
        numbers([m.tls_need.value for m, _ in pairs]),
        texts([to.site for _, to in pairs]),
        numbers([to.isp_id for _, to in pairs]),
        texts([to.address for _, to in pairs]),
        texts([to.domain for _, to in pairs]),
        numbers([to.number for _, to in pairs]),
        numbers([m.content.segment for m, _ in pairs]),
        numbers([m.content.offset for m, _ in pairs]),
        numbers([m.content.length for m, _ in pairs]),
        numbers([m.content.crc for m, _ in pairs]),
        texts([m.header_from for m, _ in pairs]),
        texts([m.reverse_path for m, _ in pairs]),
        texts([m.message_id_header for m, _ in pairs]),
        texts([m.custom for m, _ in pairs]),
        numbers([m.delay_s for m, _ in pairs]),
        arrays.times([m.send_at for m, _ in pairs]),
        numbers([m.lifetime_s for m, _ in pairs]),
        arrays.times([m.expires_at for m, _ in pairs]),
        texts([to.dsn for _, to in pairs] if any(to.dsn for _, to in pairs) else ()),
    )

-- Which minutes wait to be rolled up. Runs on ClickHouse 18.16 and on any newer one.

-- What must be rolled up. An even version: the minute was touched and waits; the odd one above it:
-- its roll-up was computed. Half of it is the generation of that roll-up. Noted before the outbox's
-- cursor moves, so that nothing is forgotten however long the computing is put off.
CREATE TABLE IF NOT EXISTS minute_state (
    minute  DateTime('UTC'),
    version UInt64
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(minute)
ORDER BY minute;

-- Upkeep looks for rows whose lifetime is over every five seconds. An index by ranges of pages
-- (BRIN) does not forget what ended there: after the first expiry each look read the whole queue.
-- Leased rows are not in this one, so a claim writes no entry. `state + 0`: a claim's plan, made
-- on an empty table, would take an index of all that waits for one of its own.
DROP INDEX ledger_row_expiry;
CREATE INDEX ledger_row_expiry ON ledger_row (expires_at) WHERE state + 0 IN (0, 2);

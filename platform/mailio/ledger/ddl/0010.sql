-- What nodes have witnessed: each counts its heartbeats here and in a file of its own. A file that
-- knows of more than the database proves that the database has lost transactions: a backup was
-- restored, or a replica took over that lagged (mailio.witness).
CREATE TABLE ledger_witness (
    name    text PRIMARY KEY,
    beats   bigint NOT NULL,
    beat_at timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- Restored backups that were noticed. While one is open nothing is claimed: its rows, all up to
-- `up_to`, are being set aside (state 2, reason 'restored'), and nobody but an operator lets them go.
CREATE TABLE ledger_restore (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    noticed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    noticed_by text NOT NULL,
    note       text NOT NULL DEFAULT '',
    up_to      bigint NOT NULL,
    at_id      bigint NOT NULL DEFAULT 0,
    rows       bigint NOT NULL DEFAULT 0,
    ended_at   timestamptz
);
CREATE UNIQUE INDEX ledger_restore_open ON ledger_restore ((ended_at IS NULL))
    WHERE ended_at IS NULL;
CREATE INDEX ledger_row_restored ON ledger_row (id) WHERE reason = 'restored';

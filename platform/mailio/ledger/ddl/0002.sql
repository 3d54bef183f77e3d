-- Outbox bodies that a consumer could not read, kept as they were: set aside, so that they hold up
-- nobody, and not lost, so that they can be applied once the cause is found.
CREATE TABLE ledger_outbox_refused (
    consumer    text NOT NULL,
    xid         xid8 NOT NULL,
    row_id      bigint NOT NULL,
    refused_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    event_count integer NOT NULL,
    reason      text NOT NULL,
    body        bytea NOT NULL,
    PRIMARY KEY (consumer, xid, row_id)
);

-- What the checker of the queue found wrong (mailcore.invariants): while it stands, and for a month
-- after it has ended. One open row for each invariant and node; node '' is the ledger's own.
CREATE TABLE queue_finding (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invariant     text NOT NULL,
    node          text NOT NULL DEFAULT '',
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    count         bigint NOT NULL,                   -- when it was last seen; 0: all was mended
    mended        bigint NOT NULL DEFAULT 0,         -- by us, since it was first seen
    examples      jsonb NOT NULL DEFAULT '[]',       -- ids, at most ten
    note          text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX queue_finding_open ON queue_finding (invariant, node) WHERE ended_at IS NULL;
CREATE INDEX queue_finding_ended ON queue_finding (ended_at) WHERE ended_at IS NOT NULL;

-- When each part of the check last ran: 'ledger' of node '', 'content' of each node.
CREATE TABLE queue_check (
    part      text NOT NULL,
    node      text NOT NULL DEFAULT '',
    ended_at  timestamptz NOT NULL DEFAULT now(),
    took_s    float8 NOT NULL,
    looked_at bigint NOT NULL,                       -- rows, or contents
    is_whole  boolean NOT NULL DEFAULT true,         -- false: a sample
    segments  bigint[] NOT NULL DEFAULT '{}',        -- of the node's spool, for the other nodes
    absent    jsonb NOT NULL DEFAULT '[]',           -- content of rows that it does not have
    PRIMARY KEY (part, node)
);

-- How old the oldest row of each state and reason was then, since it was accepted.
CREATE TABLE queue_age (
    state    smallint NOT NULL,
    reason   text NOT NULL,                          -- '' unless it waits
    rows     bigint NOT NULL,
    oldest_s float8 NOT NULL,
    row_id   bigint NOT NULL,
    PRIMARY KEY (state, reason)
);

-- What a node's upkeep found: on the disk of its spool each minute, in its segments at each sweep.
CREATE TABLE spool_node (
    node             text PRIMARY KEY,
    measured_at      timestamptz,
    total_bytes      bigint NOT NULL DEFAULT 0,
    free_bytes       bigint NOT NULL DEFAULT 0,
    total_inodes     bigint NOT NULL DEFAULT 0,      -- 0: the file system does not count them
    free_inodes      bigint NOT NULL DEFAULT 0,
    warn_bytes       bigint NOT NULL DEFAULT 0,      -- as policy said then
    stop_bytes       bigint NOT NULL DEFAULT 0,
    growth           float8,                         -- bytes a second; null: too early to say
    hours_left       float8,                         -- until nothing is accepted; null: not in sight
    swept_at         timestamptz,
    retention_s      float8 NOT NULL DEFAULT 0,
    segments         bigint NOT NULL DEFAULT 0,      -- after the last sweep, as all below
    size_bytes       bigint NOT NULL DEFAULT 0,
    live_bytes       bigint NOT NULL DEFAULT 0,
    kept             jsonb NOT NULL DEFAULT '{}',    -- mailcore.spool.Keeper: [segments, bytes]
    oldest_at        timestamptz,
    oldest_keeper    text NOT NULL DEFAULT '',
    foreign_count    bigint NOT NULL DEFAULT 0,
    foreign_names    jsonb NOT NULL DEFAULT '[]',
    unreadable       bigint NOT NULL DEFAULT 0,      -- contents that a row needs and nobody can read
    deleted          bigint NOT NULL DEFAULT 0,
    deleted_bytes    bigint NOT NULL DEFAULT 0,
    compacted        bigint NOT NULL DEFAULT 0,
    copied_bytes     bigint NOT NULL DEFAULT 0,
    moved_rows       bigint NOT NULL DEFAULT 0,
    -- of all sweeps
    deleted_all      bigint NOT NULL DEFAULT 0,
    deleted_bytes_all bigint NOT NULL DEFAULT 0,
    compacted_all    bigint NOT NULL DEFAULT 0,
    copied_bytes_all bigint NOT NULL DEFAULT 0
);

CREATE TABLE spool_sample (
    node        text NOT NULL,
    at          timestamptz NOT NULL,                -- to the minute
    free_bytes  bigint NOT NULL,
    free_inodes bigint NOT NULL,
    PRIMARY KEY (node, at)
);

-- Rows whose content could not be read: few, and counted often.
CREATE INDEX ledger_row_no_content ON ledger_row (id) WHERE reason = 'no_content';

-- The ledger: the one home of its tables. A Django migration and the test fixtures both run this
-- file. Times are the database's; writers send delays. Rows exist only while a result is owed.

CREATE TABLE campaign (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id  integer NOT NULL,
    label       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    UNIQUE (account_id, label)
);

-- Where a recipient domain's mail goes, as routing last found it; intake routes known domains.
CREATE TABLE ledger_route (
    domain      text PRIMARY KEY,
    site        text NOT NULL,
    isp_id      integer NOT NULL DEFAULT 0,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX ledger_route_expiry ON ledger_route (expires_at);

-- Rows alike in all that decides when and where they go. site '' is unrouted. Every statement that
-- writes several lanes locks them in the order of the unique key (site by bytes): no deadlock.
CREATE TABLE ledger_lane (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sender_id   integer NOT NULL,
    account_id  integer NOT NULL,
    campaign_id integer NOT NULL DEFAULT 0,
    mail_class  smallint NOT NULL,
    site        text COLLATE "C" NOT NULL DEFAULT '',
    tls_need    smallint NOT NULL DEFAULT 0,
    isp_id      integer NOT NULL DEFAULT 0,
    waiting     bigint NOT NULL DEFAULT 0,
    leased      bigint NOT NULL DEFAULT 0,
    unknown     bigint NOT NULL DEFAULT 0,
    -- never later than the first due row; exact only where nobody wrote since it was computed
    next_due_at timestamptz NOT NULL DEFAULT 'infinity',
    -- raised by every writer that adds a waiting row, so that a computed next_due_at can be refused
    touch_no    bigint NOT NULL DEFAULT 0,
    -- when mail last came in: an empty lane is dropped once this is long ago
    used_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    UNIQUE (site, sender_id, account_id, campaign_id, mail_class, tls_need)
)
-- Counts change with every batch. Room in the page and no index on them keep those updates in
-- place (HOT); the few lanes are vacuumed often, because every claim reads them.
WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
      autovacuum_analyze_scale_factor = 0.5, autovacuum_analyze_threshold = 1000);
CREATE INDEX ledger_lane_due ON ledger_lane (next_due_at) WITH (fillfactor = 60);

-- One life of one process that may hold rows.
CREATE TABLE ledger_incarnation (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node         text NOT NULL,
    process      text NOT NULL,
    journal      text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    ended_at     timestamptz
)
WITH (fillfactor = 50);
CREATE INDEX ledger_incarnation_open ON ledger_incarnation (node) WHERE ended_at IS NULL;
CREATE INDEX ledger_incarnation_ended ON ledger_incarnation (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE ledger_row (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane_id           bigint NOT NULL,
    state             smallint NOT NULL DEFAULT 0,   -- 0 waiting, 1 leased, 2 unknown
    recipient_no      integer NOT NULL,
    attempt           integer NOT NULL DEFAULT 0,
    claim_no          integer NOT NULL DEFAULT 0,    -- the fence
    incarnation       bigint,
    due_at            timestamptz NOT NULL,
    accepted_at       timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at        timestamptz NOT NULL,
    message_id        uuid NOT NULL,
    content_segment   bigint NOT NULL,
    content_offset    bigint NOT NULL,
    content_length    integer NOT NULL,
    content_crc       bigint NOT NULL,
    pinned_source_id  integer,
    -- set while the row is in an unrouted lane, null afterwards: routed rows pay nothing for it
    unrouted_domain   text COLLATE "C",
    recipient         text NOT NULL,                 -- local-part@a-label-domain
    reverse_path      text NOT NULL,
    header_from       text NOT NULL,
    message_id_header text NOT NULL,
    custom            text NOT NULL DEFAULT '',
    reason            text NOT NULL DEFAULT 'new',   -- mailcore.outcome.WaitReason
    last_reply        text NOT NULL DEFAULT ''
)
-- A row lives for seconds or for days; its dead versions are what slows a claim down.
WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
      autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_analyze_scale_factor = 0.2);
CREATE INDEX ledger_row_claim ON ledger_row (lane_id, due_at, id) WHERE state = 0;
CREATE INDEX ledger_row_message ON ledger_row (message_id);
CREATE INDEX ledger_row_incarnation ON ledger_row (incarnation) WHERE state = 1;
CREATE INDEX ledger_row_unknown ON ledger_row (due_at, id) WHERE state = 2;
CREATE INDEX ledger_row_unrouted ON ledger_row (unrouted_domain, due_at)
    WHERE unrouted_domain IS NOT NULL AND state = 0;
CREATE INDEX ledger_row_unrouted_due ON ledger_row (due_at, unrouted_domain)
    WHERE unrouted_domain IS NOT NULL AND state = 0;
CREATE INDEX ledger_row_segment ON ledger_row USING brin (content_segment)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX ledger_row_expiry ON ledger_row USING brin (expires_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- One row per batch of events, written in the transaction that caused them.
CREATE TABLE ledger_outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- names an accepted batch (its first message), so that an accept whose COMMIT was never
    -- answered can be sent again: the second does nothing if the first went through
    batch_id    uuid,
    event_count integer NOT NULL,
    body        bytea NOT NULL
);
ALTER TABLE ledger_outbox ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX ledger_outbox_order ON ledger_outbox (xid, id);
CREATE UNIQUE INDEX ledger_outbox_batch ON ledger_outbox (batch_id) WHERE batch_id IS NOT NULL;

CREATE TABLE ledger_cursor (
    consumer   text PRIMARY KEY,
    xid        xid8 NOT NULL DEFAULT '0',
    row_id     bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- The answer to a request with an Idempotency-Key, kept as it was given.
CREATE TABLE ledger_idempotency (
    account_id integer NOT NULL,
    key        text COLLATE "C" NOT NULL,
    body_hash  bytea NOT NULL,
    answer     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (account_id, key)
);
CREATE INDEX ledger_idempotency_age ON ledger_idempotency USING brin (created_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- Who must not be mailed. account_id 0 is the whole installation.
CREATE TABLE stop_entry (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id     integer NOT NULL DEFAULT 0,
    recipient_hash text NOT NULL,                    -- mailcore.events.recipient_hash
    recipient      text NOT NULL,
    reason         text NOT NULL,                    -- hard_bounce, complaint, unsubscribed, manual
    detail         text NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at     timestamptz,
    UNIQUE (recipient_hash, account_id)
);

-- Mail that must not be sent for now, by an operator's word. In force from placed_at until it is
-- released or its end has come; the workers read what is in force, and look at no lane it covers.
CREATE TABLE queue_hold (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope       text NOT NULL,                       -- mailcore.holds.HoldScope
    target_id   integer NOT NULL DEFAULT 0,          -- pool, source, sender, account, campaign, isp
    target      text COLLATE "C" NOT NULL DEFAULT '',  -- node: its name; domain: its A-label form
    reason      text NOT NULL,
    author      text NOT NULL,
    placed_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    ends_at     timestamptz,
    released_at timestamptz,
    released_by text NOT NULL DEFAULT ''
);
CREATE INDEX queue_hold_open ON queue_hold (id) WHERE released_at IS NULL;
CREATE INDEX queue_hold_domain ON queue_hold (target)
    WHERE scope = 'domain' AND released_at IS NULL;
-- A domain is no part of a lane: rows of a held one are parked, unrouted, with this reason.
CREATE INDEX ledger_row_parked ON ledger_row (unrouted_domain, id)
    WHERE unrouted_domain IS NOT NULL AND state = 0 AND reason = 'held';
-- What waits for routing, without them: a million parked rows must not slow it.
DROP INDEX ledger_row_unrouted, ledger_row_unrouted_due;
CREATE INDEX ledger_row_unrouted ON ledger_row (unrouted_domain, due_at)
    WHERE unrouted_domain IS NOT NULL AND state = 0 AND reason <> 'held';
CREATE INDEX ledger_row_unrouted_due ON ledger_row (due_at, unrouted_domain)
    WHERE unrouted_domain IS NOT NULL AND state = 0 AND reason <> 'held';

-- Purged rows as they were, with the key of their lane, until undone or no longer kept. A record
-- keeps its content alive as a row does.
CREATE TABLE queue_undo (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id            bigint NOT NULL,
    row_id            bigint NOT NULL,               -- the number it had, and will have again
    saved_at          timestamptz NOT NULL DEFAULT statement_timestamp(),
    sender_id         integer NOT NULL,
    account_id        integer NOT NULL,
    campaign_id       integer NOT NULL,
    mail_class        smallint NOT NULL,
    site              text COLLATE "C" NOT NULL,
    tls_need          smallint NOT NULL,
    isp_id            integer NOT NULL,
    state             smallint NOT NULL,
    recipient_no      integer NOT NULL,
    attempt           integer NOT NULL,
    claim_no          integer NOT NULL,
    due_at            timestamptz NOT NULL,
    accepted_at       timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL,
    message_id        uuid NOT NULL,
    content_segment   bigint NOT NULL,
    content_offset    bigint NOT NULL,
    content_length    integer NOT NULL,
    content_crc       bigint NOT NULL,
    pinned_source_id  integer,
    unrouted_domain   text COLLATE "C",
    recipient         text NOT NULL,
    reverse_path      text NOT NULL,
    header_from       text NOT NULL,
    message_id_header text NOT NULL,
    custom            text NOT NULL,
    reason            text NOT NULL,
    last_reply        text NOT NULL
);
CREATE INDEX queue_undo_job ON queue_undo (job_id, id);
CREATE INDEX queue_undo_row ON queue_undo (row_id);
CREATE INDEX queue_undo_segment ON queue_undo USING brin (content_segment)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX queue_undo_age ON queue_undo USING brin (saved_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- Mailboxes that are read for reports: when, what was read, and what it came to. The mailboxes
-- themselves are policy; a number here that no policy knows does no harm.
CREATE TABLE mailbox_poll (
    mailbox_id  integer PRIMARY KEY,
    node        text NOT NULL DEFAULT '',
    begun_at    timestamptz NOT NULL DEFAULT '-infinity',
    ended_at    timestamptz,
    next_at     timestamptz NOT NULL DEFAULT '-infinity',
    read_count  integer NOT NULL DEFAULT 0,      -- by the last reading
    error       text NOT NULL DEFAULT ''         -- of the last reading
);

-- What was read and is still in its mailbox, by the server's UIDL. A row is deleted once its message
-- is; until then it keeps the message from being counted again.
CREATE TABLE mailbox_seen (
    mailbox_id integer NOT NULL,
    uidl       text COLLATE "C" NOT NULL,
    is_done    boolean NOT NULL,                 -- false: nothing was known of its message yet
    tries      smallint NOT NULL DEFAULT 1,
    due_at     timestamptz NOT NULL DEFAULT 'infinity',
    listed_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (mailbox_id, uidl)
);
CREATE INDEX mailbox_seen_age ON mailbox_seen (listed_at);

-- How many messages of a kind met a fate (mailcore.classify.inbound, mailcore.inbound), by day.
CREATE TABLE mailbox_tally (
    mailbox_id integer NOT NULL,
    day        date NOT NULL,
    kind       text NOT NULL,
    fate       text NOT NULL,
    messages   bigint NOT NULL,
    PRIMARY KEY (mailbox_id, day, kind, fate)
);

-- Events that reports led to. The same report comes twice, or by two ways, and counts once.
CREATE TABLE inbound_event (
    event_id text COLLATE "C" PRIMARY KEY,
    told_at  timestamptz NOT NULL DEFAULT statement_timestamp()
);
CREATE INDEX inbound_event_age ON inbound_event USING brin (told_at)
    WITH (pages_per_range = 32, autosummarize = on);

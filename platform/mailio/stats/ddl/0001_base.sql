-- The events for good, and what is computed from them. Runs on ClickHouse 18.16 and on any newer
-- one. Statements end with a semicolon at the end of a line; each may be run again.

-- One row per event; a column for every field of mailcore.events.Event, by the same name, whose
-- default is the same empty value. Sorted by minute, because that is how events are asked for and
-- how roll-ups read them; message_by_minute leads from a message to its minutes. The sort key ends
-- with event_id: what was inserted twice is one row after a merge, and under FINAL before it.
CREATE TABLE IF NOT EXISTS event (
    event_id          String,
    kind              LowCardinality(String),
    occurred_ms       UInt64,
    message_id        UUID,
    recipient_no      UInt32,
    claim_no          UInt32,
    account_id        UInt32,
    campaign_id       UInt32,
    campaign          LowCardinality(String),
    sender_id         UInt32,
    node              LowCardinality(String),
    source_id         UInt32,
    source_ip         LowCardinality(String),
    pool_id           UInt32,
    isp_id            UInt32,
    isp               LowCardinality(String),
    site              LowCardinality(String),
    mx_host           LowCardinality(String),
    mx_address        LowCardinality(String),
    mail_class        LowCardinality(String),
    recipient         String,
    recipient_domain  LowCardinality(String),
    recipient_hash    String,
    header_from       LowCardinality(String),
    message_id_header String,
    accepted_ms       UInt64,
    attempt           UInt32,
    stage             LowCardinality(String),
    scope             LowCardinality(String),
    bounce_type       LowCardinality(String),
    bounce_class      LowCardinality(String),
    code              UInt16,
    enhanced          LowCardinality(String),
    reply             String,
    reply_normal      String,
    rule              LowCardinality(String),
    next_due_ms       UInt64,
    tls_version       LowCardinality(String),
    tls_cipher        LowCardinality(String),
    size_bytes        UInt64,
    queue_ms          Int64,
    dialogue_ms       Int64,
    policy_revision   UInt64,
    custom            String,
    minute            DateTime('UTC') MATERIALIZED toDateTime(intDiv(occurred_ms, 60000) * 60)
) ENGINE = ReplacingMergeTree()
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, message_id, event_id);

-- From a message to the minutes in which something happened to it: a trace reads a few granules.
CREATE TABLE IF NOT EXISTS message_by_minute (
    message_id UUID,
    minute     DateTime('UTC')
) ENGINE = ReplacingMergeTree()
PARTITION BY toYYYYMM(minute)
ORDER BY (message_id, minute);

CREATE MATERIALIZED VIEW IF NOT EXISTS message_by_minute_feed TO message_by_minute AS
SELECT message_id, minute FROM event GROUP BY message_id, minute;

-- From a campaign to the minutes in which something happened to it.
CREATE TABLE IF NOT EXISTS campaign_by_minute (
    campaign   LowCardinality(String),
    account_id UInt32,
    minute     DateTime('UTC')
) ENGINE = ReplacingMergeTree()
PARTITION BY toYYYYMM(minute)
ORDER BY (campaign, account_id, minute);

CREATE MATERIALIZED VIEW IF NOT EXISTS campaign_by_minute_feed TO campaign_by_minute AS
SELECT campaign, account_id, minute FROM event GROUP BY campaign, account_id, minute;

-- Roll-ups are computed again, whole minutes at a time, from the distinct events. Each time makes a
-- new generation of the minute, higher than the last; readers take the newest generation of
-- each minute, so what it no longer has is gone at once. A row of kind '' with no events stands for
-- every minute computed, also an empty one. Older generations disappear in merges, or stay unread.
CREATE TABLE IF NOT EXISTS roll_up (
    minute        DateTime('UTC'),
    account_id    UInt32,
    campaign_id   UInt32,
    campaign      LowCardinality(String),
    sender_id     UInt32,
    node          LowCardinality(String),
    source_id     UInt32,
    source_ip     LowCardinality(String),
    pool_id       UInt32,
    isp_id        UInt32,
    isp           LowCardinality(String),
    mail_class    LowCardinality(String),
    kind          LowCardinality(String),
    bounce_type   LowCardinality(String),
    bounce_class  LowCardinality(String),
    generation    UInt64,
    events        UInt64,
    first_tries   UInt64,
    with_tls      UInt64,
    size_bytes    UInt64,
    queue_ms      Int64,
    dialogue_ms   Int64,
    -- Histograms: bucket b counts times of [2^(b/4), 2^((b+1)/4)) milliseconds.
    queue_bucket    Array(UInt8),
    queue_count     Array(UInt64),
    dialogue_bucket Array(UInt8),
    dialogue_count  Array(UInt64)
) ENGINE = ReplacingMergeTree(generation)
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, account_id, campaign_id, campaign, sender_id, node, source_id, source_ip, pool_id,
          isp_id, isp, mail_class, kind, bounce_type, bounce_class);

-- What servers said, normalised, to be counted.
CREATE TABLE IF NOT EXISTS roll_up_reply (
    minute       DateTime('UTC'),
    account_id   UInt32,
    campaign_id  UInt32,
    sender_id    UInt32,
    source_id    UInt32,
    isp_id       UInt32,
    isp          LowCardinality(String),
    kind         LowCardinality(String),
    bounce_type  LowCardinality(String),
    bounce_class LowCardinality(String),
    code         UInt16,
    enhanced     LowCardinality(String),
    rule         LowCardinality(String),
    reply_normal String,
    generation   UInt64,
    events       UInt64
) ENGINE = ReplacingMergeTree(generation)
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, account_id, campaign_id, sender_id, source_id, isp_id, isp, kind, bounce_type,
          bounce_class, code, enhanced, rule, reply_normal);

"""The statements of the accepting side. Lanes are locked in the order of their unique key."""

from __future__ import annotations

# One message row a recipient. The batch goes in whole or, when its id is in the outbox already
# (a repeat after a COMMIT nobody answered), not at all: everything hangs on `mark`.
ACCEPT = """
WITH mark AS MATERIALIZED (
    INSERT INTO ledger_outbox (batch_id, event_count, body) VALUES ($1::uuid, $2::int, $3::bytea)
    ON CONFLICT (batch_id) WHERE batch_id IS NOT NULL DO NOTHING
    RETURNING id
), input AS MATERIALIZED (
    SELECT t.*, t.site_text COLLATE "C" AS site,
           GREATEST(statement_timestamp(), t.send_at,
                    statement_timestamp() + make_interval(secs => t.delay_s)) AS due_at
      FROM unnest($4::uuid[], $5::int[], $6::int[], $7::int[], $8::smallint[], $9::smallint[],
                  $10::text[], $11::int[], $12::text[], $13::text[], $14::int[], $15::bigint[],
                  $16::bigint[], $17::int[], $18::bigint[], $19::text[], $20::text[], $21::text[],
                  $22::text[], $23::float8[], $24::timestamptz[], $25::float8[],
                  $26::timestamptz[], $27::text[])
        AS t (message_id, account_id, sender_id, campaign_id, mail_class, tls_need,
              site_text, isp_id, recipient, domain, recipient_no, content_segment,
              content_offset, content_length, content_crc, header_from, reverse_path,
              message_id_header, custom, delay_s, send_at, lifetime_s, expires_at, dsn)
     WHERE EXISTS (SELECT FROM mark)
), lane AS (
    INSERT INTO ledger_lane AS l (site, sender_id, account_id, campaign_id, mail_class, tls_need,
                                  isp_id, waiting, next_due_at, touch_no)
    SELECT site, sender_id, account_id, campaign_id, mail_class, tls_need,
           max(isp_id), count(*), min(due_at), 1
      FROM input
     GROUP BY site, sender_id, account_id, campaign_id, mail_class, tls_need
     ORDER BY site, sender_id, account_id, campaign_id, mail_class, tls_need
    ON CONFLICT (site, sender_id, account_id, campaign_id, mail_class, tls_need) DO UPDATE
       SET waiting = l.waiting + excluded.waiting,
           next_due_at = LEAST(l.next_due_at, excluded.next_due_at),
           isp_id = excluded.isp_id,
           touch_no = l.touch_no + 1,
           used_at = statement_timestamp()
    RETURNING id, site, sender_id, account_id, campaign_id, mail_class, tls_need
), stored AS (
    INSERT INTO ledger_row (lane_id, recipient_no, due_at, expires_at, message_id, content_segment,
                            content_offset, content_length, content_crc, unrouted_domain,
                            recipient, reverse_path, header_from, message_id_header, custom,
                            dsn, reason)
    SELECT lane.id, i.recipient_no, i.due_at,
           COALESCE(i.expires_at, i.due_at + make_interval(secs => i.lifetime_s)), i.message_id,
           i.content_segment, i.content_offset, i.content_length, i.content_crc,
           CASE WHEN i.site = '' THEN i.domain END,
           i.recipient, i.reverse_path, i.header_from, i.message_id_header, i.custom,
           COALESCE(i.dsn, ''),
           CASE WHEN i.site = '' THEN 'unrouted'
                WHEN i.due_at > statement_timestamp() THEN 'scheduled' ELSE 'new' END
      FROM input i
      JOIN lane USING (site, sender_id, account_id, campaign_id, mail_class, tls_need)
    RETURNING 1
)
SELECT count(*) FROM stored
"""

# Keys in key order: two batches that share some wait for each other instead of deadlocking.
KEYS = """
INSERT INTO ledger_idempotency (account_id, key, body_hash, answer)
SELECT t.account_id, t.key COLLATE "C", decode(t.body_hash, 'hex'), t.answer
  FROM unnest($1::int[], $2::text[], $3::text[], $4::text[])
    AS t (account_id, key, body_hash, answer)
 ORDER BY 1, 2
ON CONFLICT (account_id, key) DO NOTHING
RETURNING account_id, key
"""

STORED = """
SELECT i.account_id, i.key, encode(i.body_hash, 'hex'), i.answer
  FROM unnest($1::int[], $2::text[]) AS t (account_id, key)
 CROSS JOIN LATERAL (SELECT * FROM ledger_idempotency s
                      WHERE s.account_id = t.account_id AND s.key = t.key LIMIT 1) AS i
"""

CAMPAIGNS_ADD = """
INSERT INTO campaign (account_id, label)
SELECT $1::int, t.label FROM unnest($2::text[]) AS t (label) ORDER BY 2
ON CONFLICT (account_id, label) DO NOTHING
"""

CAMPAIGNS = "SELECT label, id FROM campaign WHERE account_id = $1::int AND label = ANY ($2::text[])"

ROUTES = """
SELECT domain, site, isp_id, extract(epoch FROM expires_at - statement_timestamp())::float8
  FROM ledger_route
 WHERE domain = ANY ($1::text[]) AND expires_at > statement_timestamp()
"""

STOPPED = """
SELECT recipient_hash, account_id, reason, detail
  FROM stop_entry
 WHERE recipient_hash = ANY ($1::text[]) AND account_id = ANY ($2::int[])
   AND (expires_at IS NULL OR expires_at > statement_timestamp())
"""

# An estimate that costs the same at any length: batches behind the slowest consumer, by their
# numbers, times what the newest weigh. Nothing is read of the bodies, which are stored apart.
OUTBOX_BYTES = """
SELECT COALESCE((o.newest - GREATEST(o.oldest - 1, c.applied)) * n.bytes, 0)::bigint
  FROM (SELECT (SELECT id FROM ledger_outbox ORDER BY id DESC LIMIT 1) AS newest,
               (SELECT id FROM ledger_outbox ORDER BY id LIMIT 1) AS oldest) AS o,
       (SELECT COALESCE(min(row_id), 0) AS applied FROM ledger_cursor) AS c,
       (SELECT avg(pg_column_size(body) + 100) AS bytes
          FROM (SELECT body FROM ledger_outbox ORDER BY id DESC LIMIT 200) AS b) AS n
"""

LOOKUPS = {
    "campaigns_add": CAMPAIGNS_ADD,
    "campaigns": CAMPAIGNS,
    "known_routes": ROUTES,
    "outbox_bytes": OUTBOX_BYTES,
    "stopped": STOPPED,
    "stored_keys": STORED,
}
COMMITS = {"accept": ACCEPT, "add_keys": KEYS, "stored_keys": STORED}

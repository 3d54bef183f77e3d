-- What TLS an attempt went by and what failed (RFC 8460 §4.3, §4.4). Runs on ClickHouse 18.16.
ALTER TABLE event ADD COLUMN tls_policy LowCardinality(String);
ALTER TABLE event ADD COLUMN tls_result LowCardinality(String);

-- Reports to senders. Runs on ClickHouse 18.16 and on any newer one.

-- What a report needs (mailcore.dsn.DsnFacts), so that one can be made of a failure that a server
-- reports days later; empty in all mail that did not come by SMTP.
ALTER TABLE event ADD COLUMN dsn String AFTER tls_result;

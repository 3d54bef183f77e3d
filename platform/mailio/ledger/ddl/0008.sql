-- What domains said of themselves by MTA-STS (RFC 8461), for all processes of the fleet. A policy is
-- in force until it expires, whatever happens to its record and its file: so a restart of ours, or
-- an attacker on the way to either, makes nobody forget it. One row per domain that has a policy.
CREATE TABLE sts_policy (
    domain     text PRIMARY KEY,
    policy_id  text NOT NULL,
    mode       text NOT NULL CHECK (mode IN ('enforce', 'testing', 'none')),
    body       text NOT NULL,  -- the policy's lines; what is read again
    max_age_s  integer NOT NULL,
    expires_ms bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX sts_policy_written ON sts_policy (written_at);

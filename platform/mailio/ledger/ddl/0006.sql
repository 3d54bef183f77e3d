-- Which installation this database is of. Its id lies in every spool directory as well, so that
-- nobody deletes content that rows of another database point at.
CREATE TABLE installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id  uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO installation DEFAULT VALUES;

-- How many sweeps a node's spool has seen. The directory knows as well: who knows more is newer.
CREATE TABLE spool_home (
    node   text PRIMARY KEY,
    sweeps bigint NOT NULL
);

ALTER TABLE spool_node ADD COLUMN doubt text NOT NULL DEFAULT '';  -- mailcore.spool.Doubt

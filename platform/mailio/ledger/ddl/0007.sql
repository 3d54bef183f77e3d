-- What a client that came by SMTP asks to be told (mailcore.dsn.DsnOrder); '' for all other mail.
ALTER TABLE ledger_row ADD COLUMN dsn text NOT NULL DEFAULT '';
ALTER TABLE queue_undo ADD COLUMN dsn text NOT NULL DEFAULT '';

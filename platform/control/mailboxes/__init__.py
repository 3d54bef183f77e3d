"""POP3 and IMAP mailboxes that are read for bounces, complaints and replies."""

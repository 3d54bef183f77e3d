"""A look at the ledger; nothing here writes it."""

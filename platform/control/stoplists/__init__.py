"""Who must not be mailed; the rows lie in the ledger."""

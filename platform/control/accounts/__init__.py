"""Who may act: accounts, users of both kinds, API tokens."""

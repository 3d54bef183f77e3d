"""How the panel writes dates and times."""

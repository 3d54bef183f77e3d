"""Every contact with the world: one adapter per outside thing, each behind a port of the core."""

"""Delivery configurations: from which pool, at what speed, for which accounts."""

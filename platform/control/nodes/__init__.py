"""Hosts of the fleet and the addresses they send from."""

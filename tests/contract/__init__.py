"""Promises to others: every released snapshot, payload and schema still reads."""

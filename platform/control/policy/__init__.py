"""Rows to snapshot: compile, publish, activate."""

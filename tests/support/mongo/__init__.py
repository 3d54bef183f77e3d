"""Servers that speak MongoDB's wire protocol: a double in memory, and a gateway to DocumentDB."""

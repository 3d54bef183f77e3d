"""The policy snapshot."""

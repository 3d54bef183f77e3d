"""The control plane, on a real PostgreSQL."""

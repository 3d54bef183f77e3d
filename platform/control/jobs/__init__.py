"""Background work with progress and stop."""

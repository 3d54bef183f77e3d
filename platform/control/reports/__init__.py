"""Charts of what happened to mail, and of what waits."""

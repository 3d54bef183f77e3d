"""Structure: what the layout, the task table and the import contracts promise."""

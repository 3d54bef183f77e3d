"""What operators decide, compiled: the snapshot, its bytes, and how a setting is found in it."""

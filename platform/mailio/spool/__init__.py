"""Content: raw messages on disk until nothing points at them."""

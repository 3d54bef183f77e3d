"""Mail in over HTTP, and what became of it."""

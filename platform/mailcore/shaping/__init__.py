"""How fast a path may be used, and when what failed is tried again."""

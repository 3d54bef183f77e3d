"""From domains, who may use them, and the keys that sign for them."""

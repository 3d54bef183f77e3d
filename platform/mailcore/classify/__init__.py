"""What a server's words mean: rules as data, and the reading of a reply by them."""

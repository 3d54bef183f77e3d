"""Starting the whole product on one machine: what runs, in what order, and the first campaign."""

"""Every decision Postfleet takes, as pure functions: values in, values out, no I/O and no clock."""

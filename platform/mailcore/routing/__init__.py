"""Where a message goes: from a recipient's domain to a site, and from a sender to a source."""

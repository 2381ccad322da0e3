"""Files on this disk: locked, read while they grow, replaced only with leave."""

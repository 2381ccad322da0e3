"""Learning from other nodes' groups: what is shared, vetted, drawn and believed."""

"""Learning from other nodes' groups: what is shared, checked, drawn and believed."""

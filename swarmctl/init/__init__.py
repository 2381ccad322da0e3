"""``swarmctl init``: from a few questions to a running node."""

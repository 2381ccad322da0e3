"""``swarmctl doctor``: the registry of checks, how they run, how they are told."""

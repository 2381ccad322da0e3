"""``swarmctl profiles``: list, show, validate, new."""

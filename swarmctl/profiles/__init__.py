"""``swarmctl profiles``: list, show, validate, create and import."""

"""``swarmctl profiles``: list, show, path, validate, new, edit, delete, import."""

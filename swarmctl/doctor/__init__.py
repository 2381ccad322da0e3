"""``swarmctl doctor``: the registry of checks, the code that runs them, and the reports."""

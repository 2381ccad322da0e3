"""``swarmctl completion``: install the scripts of swarmctl/completions/ where the shells look for them."""

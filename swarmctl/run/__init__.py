"""``swarmctl run``: resolve, ask, start the trainer, watch it, explain its end."""

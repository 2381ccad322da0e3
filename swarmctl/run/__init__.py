"""``swarmctl run``: resolve settings, ask for consent, start the trainer, watch it, explain how it ended."""

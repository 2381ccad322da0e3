"""``swarmctl identity``: show, new, backup, restore."""

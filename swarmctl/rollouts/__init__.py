"""``swarmctl rollouts``: show, export, stats."""

"""``swarmctl profiles import``: RL Swarm YAML to a profile."""

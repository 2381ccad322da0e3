"""``swarmctl profiles import``: turn an RL Swarm YAML file into a profile."""

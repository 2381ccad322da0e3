"""The command line of a swarm node: parses, checks, starts and watches. Imports nothing heavy at module level."""

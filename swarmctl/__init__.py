"""The command line of a swarm node: parse, check, start, watch. Nothing heavy is imported at module level."""

"""The trainer of a swarm node. Usable as a library, without the command line."""

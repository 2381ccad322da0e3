"""The trainer of a swarm node. Usable as a library; knows nothing of the command line."""

"""Swarms: who a node is, what its swarm agreed on, and how peers meet."""

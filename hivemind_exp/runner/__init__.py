"""Builds a node from its Config and runs it. The only package that imports all others."""

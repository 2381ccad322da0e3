"""Builds a node from its Config and runs it: the only package that knows all others."""

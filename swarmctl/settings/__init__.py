"""Resolve profile, environment and flags to one Config that records where each value came from."""

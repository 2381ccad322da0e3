"""Resolve profile, environment and flags to one configuration, and record where each value comes from."""

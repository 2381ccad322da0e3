"""From profile, environment and flags to one Config that knows where each value came from."""

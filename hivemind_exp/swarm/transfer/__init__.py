"""Serves bundles to peers, fetches theirs, and keeps them until the trainer takes them."""

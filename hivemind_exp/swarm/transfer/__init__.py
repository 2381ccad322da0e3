"""Bundles from peer to peer: served, fetched, and kept until the trainer takes them."""

"""Bundles from peer to peer."""

"""Swarms: a node's identity, the charter, and the connection to peers."""

"""``swarmctl run --serve``: a server for the node's own weights that the node starts, watches and stops."""

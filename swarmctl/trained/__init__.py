"""``swarmctl sample``, ``chat``, ``eval`` and ``export``: use what a node trained. They never change a node."""

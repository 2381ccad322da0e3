"""``swarmctl keys``, and the key that a run needs: where it is, whose it is, how it is kept."""

"""``swarmctl keys``, and the keys that a run needs: finding them, checking their hosts, storing them."""

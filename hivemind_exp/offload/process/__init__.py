"""The offload engine in a separate process: ``client`` (trainer side) and ``server`` (engine side)."""

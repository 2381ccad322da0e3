"""Node directories: find, create and lock them; ``swarmctl status`` and ``swarmctl logs``."""

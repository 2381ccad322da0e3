"""Node directories: find, make and lock them; ``swarmctl status`` and ``swarmctl logs``."""

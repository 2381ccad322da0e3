"""Node directories: find, create and lock them; the commands about existing nodes."""

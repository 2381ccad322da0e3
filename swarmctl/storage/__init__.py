"""Files on disk: locks, event logs that are still being written, and checks before a file is replaced."""

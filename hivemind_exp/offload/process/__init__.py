"""The engine in a process of its own: client (trainer side), child (pipe), server (engine side)."""

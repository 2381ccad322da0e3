"""What keeps a node running: watch its trainer, find out why it ended, and decide whether and when to restart it."""

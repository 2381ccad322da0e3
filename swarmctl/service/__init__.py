"""``swarmctl service``: run a node as a service of systemd, launchd or Docker, which starts it after a reboot."""

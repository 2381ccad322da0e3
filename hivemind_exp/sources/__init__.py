"""Sources that complete prompts, one module per source, their interface (``source``), and the schedule for slots."""

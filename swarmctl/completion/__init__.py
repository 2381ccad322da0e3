"""``swarmctl completion``: put a script where its shell looks for it. The scripts stay in swarmctl/completions/."""

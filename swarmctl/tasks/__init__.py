"""``swarmctl tasks``: what can be trained on: the tasks, their questions, and a score for an answer."""

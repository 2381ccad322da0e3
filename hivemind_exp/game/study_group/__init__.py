"""The game ``study-group``, with three stages: answer, critique, resolve."""

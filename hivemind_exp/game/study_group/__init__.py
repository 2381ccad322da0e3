"""Three stages: answer, critique, resolve."""

"""One stage: answer."""

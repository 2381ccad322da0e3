"""The loop and the optimizer step."""

"""The round loop and the optimizer step."""

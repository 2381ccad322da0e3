"""Plays rounds and trains the model on their completions, one optimizer step per stage."""

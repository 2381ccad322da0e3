"""Pushing the trained model and its card to the Hugging Face hub."""

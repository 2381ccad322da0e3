"""The trained model on the Hugging Face hub: its card, and how it gets there."""

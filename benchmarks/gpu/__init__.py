"""Speed and memory of generation and training on a GPU, beside plain TRL."""

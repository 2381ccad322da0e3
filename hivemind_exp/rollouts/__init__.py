"""What a prompt, a rollout and a group are, and what is requested from an API."""

"""Games define a round: its stages, prompts, rewards and schedule."""

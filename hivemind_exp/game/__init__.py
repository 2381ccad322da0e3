"""What a round is: stages, prompts, rewards, schedules."""

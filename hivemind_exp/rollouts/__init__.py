"""Prompts, rollouts and groups, and the completion requests to APIs."""

"""The stage that ends a round of each game, for parts that must not load the games themselves."""

LAST_STAGE = {"sampling": "answer", "study-group": "resolve"}
"""By ``game.kind``."""

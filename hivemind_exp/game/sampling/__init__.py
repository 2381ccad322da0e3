"""The game ``sampling``, with one stage: answer."""

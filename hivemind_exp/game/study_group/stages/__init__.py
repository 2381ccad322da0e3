"""One module per stage of ``study-group``: its prompts and the scores of its completions."""

"""One module per stage of ``study-group``: what it asks, and what a completion of it is worth."""

"""The game ``study-group``: stages in which nodes answer, and judge each other's answers."""

"""Whoever completes prompts, one module each behind one interface (``source``), and the schedule of who fills what."""

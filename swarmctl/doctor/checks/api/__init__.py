"""The checks of one API provider."""

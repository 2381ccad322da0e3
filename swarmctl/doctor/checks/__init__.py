"""The checks, one function per check. ``doctor/registry.py`` lists them."""

"""One function a check; a line in ``doctor/registry.py`` makes it one."""

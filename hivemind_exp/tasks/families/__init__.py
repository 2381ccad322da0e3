"""Families of tasks. Each module has ``check(spec)`` and ``build(spec)`` and is listed in ``registry.FAMILIES``."""

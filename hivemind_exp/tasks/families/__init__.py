"""One module for each family of tasks: ``check(spec)`` and ``build(spec)``, named in ``tasks.registry.FAMILIES``."""

"""``swarmctl models``: what a provider offers."""

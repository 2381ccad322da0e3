"""Swarms of real nodes that are killed, frozen, cut off and started again, and what must hold all the same."""

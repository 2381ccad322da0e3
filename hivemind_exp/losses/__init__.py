"""The losses for each kind of source: one module per loss, all with the same interface, listed in ``registry``."""

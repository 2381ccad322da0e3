"""What may be learned from each kind of source: a module for each loss, all of one shape, listed in ``registry``."""

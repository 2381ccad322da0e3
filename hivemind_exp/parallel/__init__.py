"""Several processes, one per GPU, that train one node together: start them, ask them, and add up their tensors."""

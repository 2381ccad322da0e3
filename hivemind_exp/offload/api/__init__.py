"""HTTP to an API: encodes, sends and decodes chat completions and batches. Nothing else in ``offload`` uses HTTP."""

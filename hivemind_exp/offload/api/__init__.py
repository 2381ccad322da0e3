"""HTTP to an API: chat completions and batches as bytes, and the SDK client. Nothing else talks HTTP."""

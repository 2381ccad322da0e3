"""HTTP to an API: chat completions and batches as bytes, and the SDK client. Offloading uses HTTP nowhere else."""

"""Makes questions and verifies answers, in worker processes."""

"""Questions and verifiers."""

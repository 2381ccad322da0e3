"""Questions and their verifiers."""

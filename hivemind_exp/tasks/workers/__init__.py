"""Sandboxed processes that make questions and verify answers."""

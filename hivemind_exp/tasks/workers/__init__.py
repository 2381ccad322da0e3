"""Sandboxed processes that generate questions and verify answers."""

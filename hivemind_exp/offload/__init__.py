"""Completions from an OpenAI-compatible API: engine, router, rate limit, ledger, billing."""

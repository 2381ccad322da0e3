"""The sandboxed processes that make questions and verify answers."""

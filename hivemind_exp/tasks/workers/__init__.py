"""The sandboxed processes that make and verify."""

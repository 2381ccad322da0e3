"""One module per family of tasks: check(spec), build(spec)."""

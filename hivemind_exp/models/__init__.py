"""The model of the demo: built on the spot, warmed up with supervised text."""

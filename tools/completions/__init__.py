"""Completion scripts for bash, zsh and fish, made from the command tree. ``python -m tools.completions`` writes them.

They are static: what a Tab offers is in the script, or is the name of a file. No Tab starts Python, which would take
longer than people wait.
"""

"""Generate completion scripts for bash, zsh and fish from the command tree. Run ``python -m tools.completions``.

The scripts are static: every candidate is in the script or is the name of a file. Pressing Tab never starts Python,
because that would be too slow.
"""

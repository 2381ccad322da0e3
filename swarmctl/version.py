"""The version of swarmctl, said once: ``pyproject.toml`` reads it here."""

VERSION = "0.1.0"

"""Libraries that look as if they were not installed, in programs that a test starts."""

from __future__ import annotations

from pathlib import Path

_FINDER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
API_CLIENTS = ("openai", "genai_prices", "aiohttp")
"""What only nodes that offload need."""


def without(place: Path, *names: str) -> dict[str, str]:
    """Return the environment variables of a program that lacks these libraries. ``place``: a directory to use."""
    (place / "sitecustomize.py").write_text(_FINDER.format(names=names), encoding="utf-8")
    return {"PYTHONPATH": str(place)}

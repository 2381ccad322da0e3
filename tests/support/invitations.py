"""What ``swarmctl swarm`` prints and what a node was started with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

SMALL = """
extends = "demo"
[game]
rounds = 1
"""
"""The profile that is used if none is named."""


def invitation(stdout: str) -> str:
    """Return the invitation after ``--join`` in the single printed line."""
    *words, join, text = pasted(stdout)
    assert join == "--join"
    assert words[:1] == ["run"]
    assert words[1::2] in ([], ["--profile"], ["--node"], ["--profile", "--node"])
    return text


def pasted(stdout: str) -> list[str]:
    """Return the arguments of the single printed command."""
    (line,) = stdout.splitlines()
    words = shlex.split(line)
    return words[words.index("run") :]


def request(home: Path, node: str) -> dict[str, Any]:
    """Return the last request to a node's trainer."""
    given: dict[str, Any] = json.loads((home / "nodes" / node / "request.json").read_text())
    return given


def made(home: Path, node: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "nodes" / node / "node.json").read_text())
    return found


def advice(stderr: str) -> list[str]:
    """Return the arguments of the command suggested after the error."""
    *_, following = stderr.splitlines()
    assert following.startswith("  try: "), stderr
    words = shlex.split(following.removeprefix("  try: "))
    return words[next(n for n, word in enumerate(words) if word in ("run", "swarm", "status")) :]

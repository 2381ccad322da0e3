"""Runs of ``swarmctl`` with ``--offload`` on a small profile whose provider is a test server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import forked_swarmctl
from tests.support.command_line import SWARMCTL, UNTRAINED, run_process, write_profile
from tests.support.fake_api.server import ApiServer

KEY = "mk-Operators0wnKey-77aa"
PROFILE = f"""{UNTRAINED}
[game]
rounds = 3
groups = 2
group_size = 4
[generation]
max_completion_tokens = 64
[providers.mybox]
base_url = "{{url}}"
model = "test-model"
needs_key = {{needs_key}}
free = {{free}}
"""
PRICED = ("--set", "offload.prices.mybox.input=2", "--set", "offload.prices.mybox.output=8")


def profile(home: Path, server: ApiServer, *, free: bool = False, needs_key: bool = False) -> None:
    """Write the profile ``small``, whose provider ``mybox`` is the test server."""
    text = PROFILE.format(url=server.base_url, free=str(free).lower(), needs_key=str(needs_key).lower())
    write_profile(home, "small", text)


def swarmctl(*arguments: str, stand_in: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    return forked_swarmctl.swarmctl("run", "-p", "small", *arguments, stand_in=stand_in, **environment)


def started(*arguments: str, program: Sequence[str] = SWARMCTL, **environment: str) -> subprocess.CompletedProcess[str]:
    """Like ``swarmctl``, but in processes that import everything anew."""
    return run_process([*program, "run", "-p", "small", *arguments], env=os.environ | environment, timeout=120)


def untrained(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run with the stand-in as the trainer, whose rounds the real engine generates."""
    return swarmctl(*arguments, stand_in=True, STAND_IN="offload", **environment)


def events(home: Path, name: str, node: str = "small") -> list[dict[str, Any]]:
    lines = (home / "nodes" / node / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == name]


def spelled(messages: Any, index: int) -> str:
    """Give a right answer in the requested format every other time."""
    word = re.sub(r".*: ", "", messages[-1]["content"])
    return f"<answer>{word[::-1] if index % 2 else word}</answer>"

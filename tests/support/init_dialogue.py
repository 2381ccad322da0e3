"""Hold the dialogue of ``swarmctl init`` on a terminal."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any, TypeAlias

import pexpect

from swarmctl.profiles.questions import task_names
from swarmctl.profiles.suitable import suitable_builtin
from swarmctl.settings import profile_files as profiles
from tests.support.command_line import STAND_IN
from tests.support.fake_api.server import ApiServer
from tests.support.terminals import expect_words, rest_of, spawn

KEY = "mk-Operators0wnKey-77aa"
CHECKS = "fit.profile,hub.model,api"
"""Those that find the same on every machine."""
BASE = profiles.read(profiles.find_builtin(suitable_builtin()))
Terminal: TypeAlias = "pexpect.spawn[str]"
Turn = tuple[str, str]
"""A question and its answer."""
DEMO: tuple[Turn, ...] = (("Train [", "demo"), ("Name of the profile and its node [my-demo]: ", ""))
API = "API [none]: "
_ERASE = "\x1b[K"


def init(server: ApiServer | None = None, **environment: str) -> Terminal:
    """Start ``swarmctl init`` on a terminal. ``server`` stands in for openai."""
    url = {} if server is None else {"STAND_IN_OPENAI": server.base_url}
    return spawn([*STAND_IN, "init"], environment=os.environ | {"STAND_IN_CHECKS": CHECKS} | url | environment)


def converse(terminal: Terminal, *turns: Turn) -> None:
    """Wait for each question, and answer it."""
    for question, answer in turns:
        expect_words(terminal, question)
        terminal.sendline(answer)


def model_of(weights: Path) -> tuple[Turn, ...]:
    """Return the first two questions with answers."""
    return ("Train [", str(weights)), (f"Task [{task_names(BASE)}]: ", "bf")


def ended(terminal: Terminal) -> tuple[int | None, list[str]]:
    """Wait for the end. Return the exit code and the lines since the last answer."""
    # On a busy machine, a line that says what takes long was drawn first, and erased.
    lines = [line.rpartition(_ERASE)[2] for line in rest_of(terminal).splitlines()]
    return terminal.exitstatus, lines[1:]


def stopped(terminal: Terminal) -> str:
    """Wait for a node's first round, and stop the node. Return what was printed before."""
    terminal.expect("Round [0-9]+")  # in the live view, or a line of the plain one
    before = str(terminal.before)
    terminal.sendintr()
    rest_of(terminal)
    return before


def written(home: Path, name: str) -> dict[str, Any]:
    """Return the values of a profile."""
    return tomllib.loads((home / f"profiles/{name}.toml").read_text(encoding="utf-8"))


def config_of(home: Path, name: str) -> dict[str, Any]:
    """Return the configuration with which a node's trainer was started."""
    config = json.loads((home / f"nodes/{name}/request.json").read_text())["config"]
    assert isinstance(config, dict)
    return config


PLACES = {
    "model": "Train [",
    "task": "Task [",
    "api": API,
    "cap": "USD [5]: ",
    "name": "Name of the profile",
    "warning": "Continue despite 1 warning? [Y/n] ",
}

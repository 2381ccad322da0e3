"""Put ``swarmctl`` into a state in which it suggests a command, type that command there, and see where it leads."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.requirements import Requirement

from swarmctl.errors import Exit
from tests.support.advice import Site

_CHANGES = {"rm", "mv", "mkdir", "chmod"}
"""Programs that are run, in the state's directory alone, because they change files."""
_LINE = re.compile(r"^ +try: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class State:
    """A command that ends with a suggestion, after commands and functions that lead to this state."""

    command: str
    """The arguments of ``swarmctl``; ``{home}`` is the home directory, and ``{here}`` another empty directory."""
    before: tuple[str | Callable[[Path], object], ...] = ()
    """What comes first: arguments of ``swarmctl``, or functions of the home directory."""
    fill: Mapping[str, str] = field(default_factory=dict)
    """What to type for placeholders, and at prompts that no test can answer, such as ``--yes``."""
    variables: Mapping[str, str] = field(default_factory=dict)
    meanwhile: Callable[[], AbstractContextManager[object]] = nullcontext
    """What the error asks for before the command is typed, such as a server that is started."""
    real: bool = False
    """Whether the trainer is the real one."""
    machine: Callable[[], object] | None = None
    """Makes the machine lack or have something, in a process that ends with the command (``real`` alone)."""


@dataclass
class Told:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str
    reached: set[Site] = field(default_factory=set)
    """What suggested commands."""

    @property
    def suggested(self) -> list[str]:
        return _LINE.findall(self.out + self.err)

    @property
    def problem(self) -> tuple[str, ...]:
        """The errors and findings with the command that is suggested for each."""
        lines = (self.out + self.err).splitlines()
        return tuple(f"{lines[n - 1]} {line}" for n, line in enumerate(lines) if n and _LINE.match(line))


Run = Callable[[list[str], Mapping[str, str], State], Told]
"""Runs ``swarmctl`` with these arguments and variables in a state. An empty variable is unset."""


def filled(text: str, home: Path) -> list[str]:
    """Return the words of a command with the directories filled in."""
    words = shlex.split(text.replace("{home}", str(home)).replace("{here}", str(home.parent)))
    return words if "--serve" in words else _short(words)


def _short(words: list[str]) -> list[str]:
    """Return a command that ends: a run after three rounds. Of a server's, only the options are read."""
    if "--serve" in words:
        return [*words, "--help"]
    ends = words[:1] != ["run"] or not {"--rounds", "--dry-run"}.isdisjoint(words)
    return words if ends else [*words, "--rounds", "3"]


def follow(state: State, home: Path, run: Run) -> tuple[set[Site], str | None]:
    """Return the sites that the state reaches, and what is wrong with their advice."""
    for step in state.before:
        if callable(step):
            step(home)
            continue
        made = run(filled(step, home), state.variables, replace(state, machine=None))
        if made.code not in (Exit.DONE, Exit.CHECK_FAILED):
            return set(), f"cannot prepare the state: {step}: {made.err}"
    command = filled(state.command, home)
    first = run(command, state.variables, state)
    if not first.suggested:
        return first.reached, f"suggests nothing: {first.out}{first.err}"
    with state.meanwhile():
        for text, problem in zip(first.suggested, first.problem, strict=True):
            then = _typed(text, command, state, run)
            if isinstance(then, Told) and problem in then.problem and then.code != Exit.DONE:
                then = "the same again"
            if isinstance(then, str):
                return first.reached, f"{first.err or first.out}\nThen `{text}`: {then}"
    return first.reached, None


def _typed(text: str, command: list[str], state: State, run: Run) -> Told | str | None:
    """Type a suggested command, and the command that failed again if that is still to do.

    Returns how the last one ended, or what is wrong with the suggestion; None if it only shows something.
    """
    variables = dict(state.variables)
    for placeholder, value in state.fill.items():
        text = text.replace(placeholder, value)
    words = shlex.split(text)
    if words[0] == "env":
        words.pop(0)
    while words[0] == "-u":
        variables[words[1]] = ""
        del words[:2]
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    if words[0].endswith("swarmctl") or words[1:3] == ["-m", "swarmctl"]:
        words = words[1:] if words[0].endswith("swarmctl") else words[3:]
        then = run(_short(words), variables, state)
        if then.code == Exit.USAGE and "--help" not in words:
            return f"it is refused: {then.err}"
        if state.real and "was created with other settings" in then.err:
            return f"the node keeps what it changes: {then.err}"
    elif words[0] == "unset":
        then = run(command, variables | dict.fromkeys(words[1:], ""), state)
    elif words[0] == "export":
        name, environment = words[1].partition("=")[0], os.environ | variables
        shown = ["bash", "-c", f'{text}; printf %s "${name}"']
        value = subprocess.run(shown, capture_output=True, encoding="utf-8", check=True, env=environment).stdout
        then = run(command, variables | {name: value}, state)
    else:
        return _in_a_shell(text, words, command, replace(state, variables=variables), run)
    return then


def _in_a_shell(text: str, words: list[str], command: list[str], state: State, run: Run) -> Told | str | None:
    """As ``_typed``, for a command of the shell. Only one that changes the state's own files is run."""
    subprocess.run(["sh", "-n", "-c", text], check=True)
    if words[1:4] == ["-m", "pip", "install"]:  # not here: what it would install is there without ``machine``
        assert [Requirement(word) for word in words[4:] if word[0] != "-"], text
        return run(command, state.variables, replace(state, machine=None))
    shows = Site("", text).only_shows
    if words[0] not in _CHANGES and not shows:  # such as git: nothing is updated here
        return None
    changed = [word for word in words if word.startswith("/") and not shows]
    assert all(Path(word).is_relative_to(Path.cwd()) for word in changed), text
    done = subprocess.run(
        ["bash", "-c", text], capture_output=True, encoding="utf-8", check=False, env=os.environ | state.variables
    )
    if done.returncode != 0:
        return f"it fails: {done.stderr}"
    return None if shows else run(command, state.variables, state)

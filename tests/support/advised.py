"""Put ``swarmctl`` into a state in which it suggests a command, type that command there, and see where it leads."""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from pathlib import Path

from packaging.requirements import Requirement

from swarmctl.errors import Exit
from swarmctl.settings.options import FLAGS
from tests.support.advice import Site

_CHANGES = {"rm", "mv", "mkdir", "chmod", "kill"}
"""Programs that are run, in the state's directory alone, because they change files."""
_LINE = re.compile(r" +try: (.*)")
_STEPS = 2
"""How many suggestions in a row are typed."""
_TARGETS = {"--offload", "--serve", "--task", "--join"}
"""Flags of ``run`` that set more than one setting, or none."""


KEY = "sk-test-0123456789abcd9f3c"


def _nothing(_home: Path) -> AbstractContextManager[str]:
    return nullcontext("")


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
    """Whether ``swarmctl`` has a process of its own, and, without the variable STAND_IN, the real trainer."""
    machine: Callable[[], object] | None = None
    """Makes the machine lack or have something, in a process that ends with the command (``real`` alone)."""
    around: Callable[[Path], AbstractContextManager[str]] = _nothing
    """What is there during all of the commands, such as a server, of the home directory. What it yields replaces
    ``{it}`` in the command and in the variables."""
    library: Callable[[], object] | None = None
    """What raises the error instead of the command: a program that uses ``hivemind_exp`` as a library (``real`` alone).
    It prints the error as ``swarmctl`` does, and ends."""
    typed: tuple[str, str] = (KEY, KEY)
    """What the command reads from standard input, and what those that are suggested read."""


@dataclass
class Told:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str
    reached: set[Site] = field(default_factory=set)
    """What suggested commands."""

    @property
    def advice(self) -> list[tuple[str, str]]:
        """Each suggested command, with the error or the finding that it is for."""
        lines = (self.out + self.err).splitlines()
        tried = [(n, match) for n, line in enumerate(lines) if (match := _LINE.match(line))]
        found = [(match[1], f"{lines[n - 1]} {match[0]}") for n, match in tried]
        if self.code == Exit.LIMIT:
            found += [(after.strip(), after) for line, after in pairwise(lines) if line == "Continue:"]
        return found


Run = Callable[[list[str], Mapping[str, str], State, str], Told]
"""Runs ``swarmctl`` with these arguments, variables and standard input in a state. An empty variable is unset."""


def _filled(text: str, home: Path, it: str) -> str:
    return text.replace("{home}", str(home)).replace("{here}", str(home.parent)).replace("{it}", it)


def filled(text: str, home: Path) -> list[str]:
    """Return the words of a command with the directories filled in."""
    words = shlex.split(_filled(text, home, "{it}"))
    return words if "--serve" in words else _short(words)


def _short(words: list[str]) -> list[str]:
    """Return a command that ends: a run after three rounds, or before it starts a server."""
    if "--serve" in words:
        ends = "--dry-run" if words[0] == "run" else "--help"
        return words if ends in words else [*words, ends]
    ends = words[:1] != ["run"] or not {"--rounds", "--dry-run"}.isdisjoint(words)
    return words if ends else [*words, "--rounds", "3"]


def follow(state: State, home: Path, run: Run) -> tuple[set[Site], str | None]:
    """Return the sites that the state reaches, and what is wrong with their advice."""
    for step in state.before:
        if callable(step):
            step(home)
            continue
        variables = {name: _filled(value, home, "") for name, value in state.variables.items()}
        made = run(filled(step, home), variables, replace(state, machine=None), KEY)
        if made.code not in (Exit.DONE, Exit.CHECK_FAILED):
            return set(), f"cannot prepare the state: {step}: {made.err}"
    with state.around(home) as it:
        variables = {name: _filled(value, home, it) for name, value in state.variables.items()}
        command = filled(_filled(state.command, home, it), home)
        return _follow(replace(state, variables=variables), command, run)


def _follow(state: State, command: list[str], run: Run) -> tuple[set[Site], str | None]:
    first = run(command, state.variables, replace(state, machine=state.library or state.machine), state.typed[0])
    if not first.advice:
        return first.reached, f"suggests nothing: {first.out}{first.err}"
    with state.meanwhile():
        for text, problem in first.advice:
            if wrong := _astray(text, [problem], command, state, run):
                return first.reached, f"{first.err or first.out}\nThen `{text}`: {wrong}"
    return first.reached, None


def _astray(text: str, problems: list[str], command: list[str], state: State, run: Run) -> str | None:
    """Return what is wrong with a suggested command, or with one that it suggests in turn; None if they lead on.

    ``problems``: the errors so far, each with its suggestion. ``command``: the one with the latest.
    """
    then = _typed(text, command, state, run)
    if not isinstance(then, Told):
        return then
    if not {*problems}.isdisjoint(problem for _, problem in then.advice):
        return f"the same again: {then.err or then.out}"
    words, variables = _arguments(text, state)
    if words is not None and (same := _still_found(problems[-1], command, words, state, run)):
        return same
    typed = command if words is None else _short(words)
    unrelated = typed[0] == "doctor" and not _checks(typed)  # it finds other things, too
    if len(problems) == _STEPS or then.code == Exit.DONE or unrelated or state.real:  # a real trainer takes seconds
        return None
    beside = replace(state, variables=variables)
    for following, problem in then.advice:
        shows = Site("", re.sub(r"^\S*swarmctl ", "swarmctl ", following)).only_shows
        if not shows and (wrong := _astray(following, [*problems, problem], typed, beside, run)):
            return f"{then.err or then.out}\nThen `{following}`: {wrong}"
    return None


def _still_found(problem: str, command: list[str], words: list[str], state: State, run: Run) -> str | None:
    """Return what ``doctor`` says if it finds the same problem in a run that it suggested itself."""
    checks = _checks(command) if command[0] == "doctor" else []
    if not checks or words[0] != "run" or not _TARGETS.isdisjoint(words):  # all of them take a while
        return None
    checks += {"--deep", "--offline"} & {*command}
    for flag, value in pairwise(words):
        if flag in {"-p", "--profile", "--node", "--set"}:
            checks += [flag, value]
        elif flag in FLAGS:
            checks += ["--set", f"{FLAGS[flag]}={value}"]
    found = run(["doctor", *checks], state.variables, state, state.typed[1])
    return f"doctor finds the same: {found.out}" if problem in [each for _, each in found.advice] else None


def _checks(words: list[str]) -> list[str]:
    """Return the checks that a ``doctor`` command names."""
    return list(takewhile(lambda word: word[0] != "-", words[1:]))


def _arguments(text: str, state: State) -> tuple[list[str] | None, dict[str, str]]:
    """Return the arguments of ``swarmctl`` in a suggested command, and the variables with which it is typed.

    The arguments are None if it is a command for another program.
    """
    words, variables = _words(text, state)
    if words[0].endswith("swarmctl"):
        return words[1:], variables
    return (words[3:] if words[1:3] == ["-m", "swarmctl"] else None), variables


def _words(text: str, state: State) -> tuple[list[str], dict[str, str]]:
    """Return the words of a suggested command, and the variables with which it is typed."""
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
    return words, variables


def _typed(text: str, command: list[str], state: State, run: Run) -> Told | str | None:
    """Type a suggested command, and the command that failed again if that is still to do.

    Returns how the last one ended, or what is wrong with the suggestion; None if it only shows something.
    """
    arguments, answer = _arguments(text, state)[0], state.typed[1]
    words, variables = _words(text, state)
    if arguments is not None:
        then = run(_short(arguments), variables, state, answer)
        if then.code == Exit.USAGE and "--help" not in arguments:
            return f"it is refused: {then.err}"
        if state.real and "was created with other settings" in then.err:
            return f"the node keeps what it changes: {then.err}"
    elif words[0] == "unset":
        then = run(command, variables | dict.fromkeys(words[1:], ""), state, answer)
    elif words[-1] == "deactivate":
        then = run(command, variables | {"VIRTUAL_ENV": "", "CONDA_PREFIX": ""}, state, answer)
    elif words[0] == "export":
        name, environment = words[1].partition("=")[0], os.environ | variables
        shown = ["bash", "-c", f'{text}; printf %s "${name}"']
        value = subprocess.run(shown, capture_output=True, encoding="utf-8", check=True, env=environment).stdout
        then = run(command, variables | {name: value}, state, answer)
    else:
        return _in_a_shell(text, words, command, replace(state, variables=variables), run)
    return then


def _in_a_shell(text: str, words: list[str], command: list[str], state: State, run: Run) -> Told | str | None:
    """As ``_typed``, for a command of the shell. Only one that changes the state's own files is run."""
    subprocess.run(["sh", "-n", "-c", text], check=True)
    if words[1:4] == ["-m", "pip", "install"] or words[1:3] == ["-m", "ensurepip"]:
        # not here: what it would install is there without ``machine``
        assert [Requirement(word) for word in words[4:] if word[0] != "-"] or words[2] == "ensurepip", text
        return run(command, state.variables, replace(state, machine=None), state.typed[1])
    if words == ["cd"]:
        os.chdir(os.environ["HOME"])
    elif words[:2] == ["ulimit", "-n"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(words[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    elif (then := _run_in_a_shell(text, words, state)) is not None:
        return then
    elif words[0].startswith("/") and shutil.which(words[0]) is None:
        return "there is no such program"
    elif words[0] not in _CHANGES:  # it only shows something, or updates what these tests need, such as git
        return None
    return run(command, state.variables, state, state.typed[1])


def _run_in_a_shell(text: str, words: list[str], state: State) -> str | None:
    """Run a command in the shell. Returns what is wrong with it."""
    shows = Site("", text).only_shows
    if words[0] not in _CHANGES and not shows:
        return None
    changed = [word for word in words if word.startswith("/") and not shows]
    assert all(Path(word).is_relative_to(Path.cwd()) for word in changed), text
    done = subprocess.run(
        ["bash", "-c", text], capture_output=True, encoding="utf-8", check=False, env=os.environ | state.variables
    )
    return f"it fails: {done.stderr}" if done.returncode != 0 else None

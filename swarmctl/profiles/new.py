"""``swarmctl profiles new``: a profile of one's own, from a built-in one, a few answers and ``--set``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.errors import ConfigurationError, NodeError
from hivemind_exp.tasks.registry import check_tasks
from swarmctl.paths import BUILTIN, shown
from swarmctl.profiles.write import TASKS, head_comment, new_path, problems_in, rendered, run_command, write
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.problems import refused
from swarmctl.settings.profile_files import SUFFIX, Profile
from swarmctl.settings.resolve import override, problems_of, resolve
from swarmctl.settings.schema import SettingPath, dotted, flatten, parse
from swarmctl.settings.sources import Override, anchored
from swarmctl.terminal.command_line import command, typed
from swarmctl.terminal.safe_text import clean, looks_like_key
from swarmctl.terminal.suggest import nearest
from swarmctl.terminal.views import Writer


@dataclass(frozen=True, slots=True)
class NewOptions:
    """The command line of ``profiles new``."""

    name: str
    base: str = profiles.DEFAULT
    flags: tuple[tuple[str, str], ...] = ()
    """(setting, text) for each flag that stands for a setting."""
    assignments: tuple[str, ...] = ()
    yes: bool = False
    no_input: bool = False
    as_json: bool = False

    @property
    def asks(self) -> bool:
        """Whether to ask: on a terminal, where the command line said nothing about the content."""
        told = self.flags or self.assignments or self.no_input or self.as_json
        return not told and sys.stdin.isatty() and sys.stderr.isatty()


def new_profile(options: NewOptions) -> None:
    """Write the profile.

    Raises ConfigurationError where the name is taken or a value is wrong; then nothing is written.
    """
    base = _base(options.base)
    path = new_path(options.name, yes=options.yes, again=_again(options))
    given = _given(options, base)
    values = merged(dict(flatten(base.values)), given)
    head = [
        f"Made by `swarmctl profiles new {options.name}`. What is not here: `swarmctl profiles show {options.name}`."
    ]
    head += ["", f"The built-in {base.name} says:", *head_comment(base.path.read_text(encoding="utf-8"))]
    if TASKS in values:
        values[TASKS] = _tables(values[TASKS])
    text = rendered(values, head=head, description=_description(base, given), extends=base.extends)
    if problems := problems_in(path, text):
        raise refused(problems, "swarmctl profiles new --help")
    write(path, text)
    if options.as_json:
        print(
            json.dumps({"schema": 1, "name": options.name, "path": str(path), "run": typed(run_command(options.name))})
        )
        return
    print(f"Wrote {shown(path)}")
    print(f"Run it: {typed(run_command(options.name))}")


def _again(options: NewOptions) -> str:
    """Return the same command with ``--yes``; one with a key in it is not repeated."""
    told = [*(f"{key}={text}" for key, text in options.flags), *options.assignments]
    if any(map(looks_like_key, told)):
        return "swarmctl profiles new --help"
    settings = [word for assignment in told for word in ("--set", assignment)]
    return command(["profiles", "new", options.name, "--from", options.base, *settings, "--yes"])


def merged(values: dict[SettingPath, Any], given: dict[SettingPath, Any]) -> dict[SettingPath, Any]:
    """Return ``values`` with ``given`` over them: a value takes the place of a table and the other way round."""
    kept = {
        path: value
        for path, value in values.items()
        if not any(path[: len(new)] == new or new[: len(path)] == path for new in given)
    }
    return kept | given


def _base(name: str) -> Profile:
    known = profiles.builtin_names()
    if name in known:
        return profiles.read(BUILTIN / f"{name}{SUFFIX}")
    guess = nearest(name, known)
    raise ConfigurationError(
        f"no built-in profile named {name!r}" + (f"; did you mean {guess}?" if guess else ""),
        next="swarmctl profiles list",
    )


def _given(options: NewOptions, base: Profile) -> dict[SettingPath, Any]:
    """Return what the command line or the operator's answers say, by setting."""
    flags = options.flags if not options.asks else answers(base)
    given = {path: parse(text, path) for path, text in ((tuple(key.split(".")), text) for key, text in flags)}
    given |= {each.path: each.value for each in map(override, options.assignments)}
    if TASKS in given:
        given[TASKS] = _tables(given[TASKS])
    return {path: anchored(path, value, Path.cwd()) for path, value in given.items()}


def _tables(tasks: Any) -> list[dict[str, Any]]:
    """Return tasks, which may be given as names, as tables."""
    if isinstance(tasks, str):
        tasks = [name.strip() for name in tasks.split(",") if name.strip()]
    if not isinstance(tasks, list) or not all(isinstance(task, str | dict) for task in tasks):
        raise ConfigurationError("tasks must be names or tables", next="swarmctl profiles new --help")
    return [{"name": task} if isinstance(task, str) else task for task in tasks]


def _description(base: Profile, given: dict[SettingPath, Any]) -> str:
    """Say what it is without claiming what the base's description claims of values that were changed."""
    if not given:
        return base.description or base.name
    return f"{base.name}, with its own {', '.join(sorted(dotted(path) for path in given))}"


QUESTIONS: tuple[tuple[SettingPath, str], ...] = (
    (("model", "name"), "Model (an id on the hub, or a directory)"),
    (TASKS, "Tasks (separated by commas)"),
    (("model", "device"), "Device (auto, cpu, cuda, cuda:1, mps, xpu)"),
    (("game", "rounds"), "Rounds (0: until stopped)"),
)


def answers(base: Profile) -> list[tuple[str, str]]:
    """Ask on stderr and return (setting, text); an empty answer keeps what the base says."""
    config = resolve(base, (), {}).config
    now = {
        ("model", "name"): config.model.name,
        TASKS: ",".join(task.name for task in config.tasks),
        ("model", "device"): config.model.device,
        ("game", "rounds"): str(config.game.rounds),
    }
    say = Writer(sys.stderr)
    given: list[tuple[str, str]] = []
    for path, question in QUESTIONS:
        while text := _ask(say.folded(f"{question} [{clean(now[path])}]:")):
            problem = _problem(base, path, text)
            if problem is None:
                given.append((dotted(path), text))
                break
            say(problem)
    return given


def _ask(question: str) -> str:
    sys.stderr.write(f"{question} ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise NodeError("the input ended before the last question", next="swarmctl profiles new --help")
    return line.strip()


def _problem(base: Profile, path: SettingPath, text: str) -> str | None:
    """Say what is wrong with an answer; None where nothing is."""
    if looks_like_key(text):
        return "That looks like a key, and a profile is no place for one."
    value = anchored(path, parse(text, path), Path.cwd())
    resolved, problems = problems_of(base, [Override(path, value, "--set")])
    if resolved is None:
        return _sentence(problems)
    try:
        check_tasks(resolved.config.tasks)
    except NodeError as error:
        return _sentence([error.message])
    return None


def _sentence(problems: Sequence[object]) -> str:
    return "; ".join(str(problem).rstrip(".") for problem in problems) + "."

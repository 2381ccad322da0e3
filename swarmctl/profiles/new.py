"""``swarmctl profiles new``: a profile of one's own, from a built-in one, a few answers and ``--set``."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.errors import ConfigurationError, NodeError
from swarmctl.profiles.validate import profile_problems
from swarmctl.profiles.write import TASKS, head_comment, new_path, print_written, problems_in, rendered, write, written
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.problems import refused
from swarmctl.settings.profile_files import Profile
from swarmctl.settings.resolve import given, override, resolve
from swarmctl.settings.schema import SettingPath, dotted, flatten
from swarmctl.settings.sources import anchored, related
from swarmctl.terminal.command_line import command
from swarmctl.terminal.safe_text import clean, looks_like_key
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
    base = profiles.read(profiles.find_builtin(options.base))
    path = new_path(options.name, yes=options.yes, again=_again(options))
    changes = _changes(options, base)
    values = merged(dict(flatten(base.values)), changes)
    if TASKS in values:
        values[TASKS] = _tables(values[TASKS])
    head = [
        f"Made by `swarmctl profiles new {options.name}`. What is not here: `swarmctl profiles show {options.name}`.",
        "",
        f"The built-in {base.name} says:",
        *head_comment(base.path.read_text(encoding="utf-8")),
    ]
    text = rendered(values, head=head, description=_description(base, changes), extends=base.extends)
    if problems := problems_in(path, text):
        raise refused(problems, "swarmctl profiles new --help")
    write(path, text)
    if options.as_json:
        print(json.dumps(written(path)))
    else:
        print_written(path)


def _again(options: NewOptions) -> str:
    """Return the same command with ``--yes``; one with a key in it is not repeated."""
    told = [*(f"{key}={text}" for key, text in options.flags), *options.assignments]
    if any(map(looks_like_key, told)):
        return "swarmctl profiles new --help"
    settings = [word for assignment in told for word in ("--set", assignment)]
    return command(["profiles", "new", options.name, "--from", options.base, *settings, "--yes"])


def merged(values: dict[SettingPath, Any], changes: dict[SettingPath, Any]) -> dict[SettingPath, Any]:
    """Return ``values`` with ``changes`` over them: a value takes the place of a table and the other way round."""
    kept = {path: value for path, value in values.items() if not any(related(path, new) for new in changes)}
    return kept | changes


def _changes(options: NewOptions, base: Profile) -> dict[SettingPath, Any]:
    """Return what the command line or the operator's answers say, by setting."""
    flags = options.flags if not options.asks else answers(base)
    overrides = [given("--set", key, text) for key, text in flags] + list(map(override, options.assignments))
    values = {each.path: _tables(each.value) if each.path == TASKS else each.value for each in overrides}
    return {path: anchored(path, value, Path.cwd()) for path, value in values.items()}


def _tables(tasks: Any) -> list[dict[str, Any]]:
    """Return tasks, which may be given as names, as tables."""
    if isinstance(tasks, str):
        tasks = [name.strip() for name in tasks.split(",") if name.strip()]
    if not isinstance(tasks, list) or not all(isinstance(task, str | dict) for task in tasks):
        raise ConfigurationError("tasks must be names or tables", next="swarmctl profiles new --help")
    return [{"name": task} if isinstance(task, str) else task for task in tasks]


def _description(base: Profile, changes: dict[SettingPath, Any]) -> str:
    """Say what it is without claiming what the base's description claims of values that were changed."""
    if not changes:
        return base.description or base.name
    return f"{base.name}, with its own {', '.join(sorted(map(dotted, changes)))}"


QUESTIONS = {
    "model.name": "Model (an id on the hub, or a directory)",
    "tasks": "Tasks (separated by commas)",
    "model.device": "Device (auto, cpu, cuda, cuda:1, mps, xpu)",
    "game.rounds": "Rounds (0: until stopped)",
}


def answers(base: Profile) -> list[tuple[str, str]]:
    """Ask on stderr and return (setting, text); an empty answer keeps what the base says."""
    config = resolve(base, (), {}).config
    now = {dotted(path): str(value) for path, value in flatten(config.model_dump())}
    now["tasks"] = ",".join(task.name for task in config.tasks)
    say = Writer(sys.stderr)
    told: list[tuple[str, str]] = []
    for key, question in QUESTIONS.items():
        while text := _ask(say.folded(f"{question} [{clean(now[key])}]:")):
            problem = _problem(base, key, text)
            if problem is None:
                told.append((key, text))
                break
            say(problem)
    return told


def _ask(question: str) -> str:
    sys.stderr.write(f"{question} ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise NodeError("the input ended before the last question", next="swarmctl profiles new --help")
    return line.strip()


def _problem(base: Profile, key: str, text: str) -> str | None:
    """Say what is wrong with an answer; None where nothing is."""
    if looks_like_key(text):
        return "That looks like a key, and a profile is no place for one."
    problems = profile_problems(base, [given("--set", key, text)])
    said = [str(problem).removeprefix("tasks: ").rstrip(".") for problem in problems]
    return "; ".join(said) + "." if said else None

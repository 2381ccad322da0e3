"""``swarmctl profiles new``: create a profile from a built-in one, a few answers and ``--set``."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hivemind_exp import atomic_write
from hivemind_exp.config import task_tables
from hivemind_exp.errors import ConfigurationError, NodeError
from swarmctl.errors import UsageError
from swarmctl.nodes.lookup import node_names, other_name
from swarmctl.paths import profiles_directory, shown
from swarmctl.profiles.suitable import suitable_builtin
from swarmctl.profiles.validate import profile_problems
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.allowed import shown as shown_value
from swarmctl.settings.options import FLAGS
from swarmctl.settings.problems import Problem, refused
from swarmctl.settings.profile_files import SUFFIX, Profile
from swarmctl.settings.resolve import given, override, problems_of, resolve
from swarmctl.settings.schema import SettingPath, dotted, flatten
from swarmctl.settings.sources import anchored, related
from swarmctl.settings.toml_text import TASKS, rendered
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.terminal.command_line import command, typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import clean, is_revision, looks_like_key
from swarmctl.terminal.views import Writer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def new_profile(
    name: str | None,
    base_name: str | None,
    settings: Sequence[tuple[str, str]],
    *,
    yes: bool,
    no_input: bool,
    as_json: bool,
) -> None:
    """Write the profile. ``settings`` are flags and their values. What is missing is prompted for on a terminal.

    Raises UsageError without a name and a terminal, and ConfigurationError if the name is taken or a value is wrong.
    Nothing is written then.
    """
    can_ask = not (no_input or as_json) and sys.stdin.isatty() and sys.stderr.isatty()
    if name is None:
        if not can_ask:
            raise UsageError("missing argument 'NAME'", next="swarmctl profiles new --help")
        name = _asked("Name of the new profile:", lambda text: new_path(text, yes=yes, again="swarmctl profiles list"))
        base_name = base_name or _asked_base()
    base_name = base_name or "default"
    base = profiles.read(profiles.find_builtin(base_name))
    path = new_path(name, yes=yes, again=_again(name, base_name, settings))
    if can_ask and not settings:
        settings = [("--set", answer) for answer in answers(base)]
    typed = [override(text) if flag == "--set" else given(flag, FLAGS[flag], text) for flag, text in settings]
    if wrong := [problem for problem in problems_of(base, typed)[1] if problem.origin.startswith("--")]:
        raise refused(wrong, "swarmctl profiles new --help")
    changes = {each.path: anchored(each.path, each.value, Path.cwd()) for each in typed}
    values = merged(dict(flatten(base.values)), changes)
    if TASKS in values:
        values[TASKS] = task_tables(values[TASKS])
    comment = takewhile(lambda line: line.startswith("#"), base.path.read_text(encoding="utf-8").splitlines())
    head = [
        f"Created by `swarmctl profiles new {name}`. To see all settings: `swarmctl profiles show {name}`.",
        "",
        f"From the built-in profile {base.name}:",
        *(line.removeprefix("#").strip() for line in comment),
    ]
    text = rendered(values, head=head, description=_description(base, changes), extends=base.extends)
    if problems := problems_in(path, text):
        raise refused(problems, "swarmctl profiles new --help")
    write(path, text)
    if as_json:
        print_json(**written(path))
    else:
        print_written(path)


def _again(name: str, base_name: str, settings: Sequence[tuple[str, str]]) -> str:
    """Return the same command with ``--yes``. A command that contains a key is not repeated."""
    if any(looks_like_key(text) for _, text in settings):
        return "swarmctl profiles new --help"
    words = [word for setting in settings for word in setting]
    base = [] if base_name == "default" else ["--from", base_name]
    return command(["profiles", "new", name, *base, *words, "--yes"])


def merged(values: dict[SettingPath, Any], changes: dict[SettingPath, Any]) -> dict[SettingPath, Any]:
    """Return ``values`` with ``changes`` applied. A value replaces a table and vice versa."""
    kept = {path: value for path, value in values.items() if not any(related(path, new) for new in changes)}
    return kept | changes


def _description(base: Profile, changes: dict[SettingPath, Any]) -> str:
    """Return a description. After changes, it does not repeat the base's, which may no longer be true."""
    if not changes:
        return base.description or base.name
    return f"{base.name} with other values of {', '.join(sorted(map(dotted, changes)))}"


def new_path(name: str, *, yes: bool, again: str) -> Path:
    """Return the path for the profile ``name``.

    Raises ConfigurationError if a node could not have this name, or if the file exists and ``yes`` is not set.
    ``again`` is the command that overwrites it.
    """
    if not _NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise ConfigurationError(
            f"invalid profile name: {shown_value(name)}. Use 1 to 64 letters, digits, '.', '_' or '-', starting with a "
            f"letter or digit and not ending with {SUFFIX}",
            next="swarmctl profiles list",
        )
    path = profiles_directory() / f"{name}{SUFFIX}"
    if os.path.lexists(path) and not yes:
        raise ConfigurationError(f"profile {shown(path)} already exists", next=again)
    return path


def problems_in(path: Path, text: str) -> list[Problem]:
    """Return every problem in a profile that is not written yet."""
    profile = profiles.parsed(path, text)
    secrets = [
        Problem(
            key, f"the value of {key} looks like an API key, which does not belong in a profile", None, profile.label
        )
        for key, value in _texts(profile.values, "")
        if looks_like_key(value) and not is_revision(key, value)
    ]
    return [*profile_problems(profile), *secrets]


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield key, value
        case dict():
            for name, item in value.items():
                yield from _texts(item, f"{key}.{name}" if key else name)
        case list():
            for item in value:
                yield from _texts(item, key)


def write(path: Path, text: str) -> None:
    """Write a checked profile. Raises NodeError if the disk is full or not writable."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write(path, text, None if path.is_file() else atomic_write.READABLE)


def written(path: Path) -> dict[str, Any]:
    """Return the ``--json`` output for a written profile."""
    name = path.stem
    other = f" --node {other_name(name)}" if name in node_names() else ""
    run = typed(f"swarmctl run --profile {shlex.quote(name)}{other}")
    return {"name": path.stem, "path": str(path), "run": run}


def print_written(path: Path) -> None:
    """Print where a profile was written and how to run it."""
    print(f"Wrote {shown(path)}")
    if path.stem in profiles.builtin_names():
        text = f"warning: --profile {path.stem} now means this file, also in existing nodes, not the built-in profile."
        Writer(sys.stderr)(f"{text} To undo this:")
        Writer(sys.stderr)(f"  rm {shlex.quote(str(path))}")
    print(f"Run it: {written(path)['run']}", flush=True)


QUESTIONS = {
    "model.name": "Model (a Hugging Face id or a directory)",
    "tasks": "Tasks (separated by commas)",
    "model.device": "Device (auto, cpu, cuda, cuda:1, mps, xpu)",
    "game.rounds": "Total rounds (0: until you stop it)",
}


def answers(base: Profile) -> list[str]:
    """Prompt on stderr and return ``KEY=VALUE`` for each answer. An empty answer keeps the base's value."""
    config = resolve(base, (), {}).config
    now = {dotted(path): str(value) for path, value in flatten(config.model_dump())}
    now["tasks"] = ",".join(task.name for task in config.tasks)
    say = Writer(sys.stderr)
    told: list[str] = []
    for key, question in QUESTIONS.items():
        while text := _ask(say.folded(f"{question} [{clean(now[key])}]:")):
            problem = _problem(base, key, text)
            if problem is None:
                told.append(f"{key}={text}")
                break
            say(problem)
    return told


def _asked_base() -> str:
    """Prompt for a built-in profile. An empty answer chooses the one that suits this machine."""
    names, suitable = ", ".join(sorted(profiles.builtin_names())), suitable_builtin()
    question = f"Built-in profile to start from ({names}) [{suitable}]:"
    return _asked(question, lambda text: profiles.find_builtin(text or suitable)) or suitable


def _asked(question: str, check: Callable[[str], object]) -> str:
    """Prompt until ``check`` raises no error for the answer, and return it."""
    say = Writer(sys.stderr)
    while True:
        text = _ask(say.folded(question))
        try:
            check(text)
        except ConfigurationError as error:
            say(f"{error.message[:1].upper()}{error.message[1:]}.")
        else:
            return text


def _ask(question: str) -> str:
    sys.stderr.write(f"{question} ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise NodeError("input ended before the last question was answered", next="swarmctl profiles new --help")
    return line.strip()


def _problem(base: Profile, key: str, text: str) -> str | None:
    """Return the problem with an answer; None if it is fine."""
    if looks_like_key(text) and not is_revision(key, text):
        return "This looks like an API key, which does not belong in a profile."
    problems = profile_problems(base, [given("--set", key, text)])
    said = [str(problem).removeprefix("tasks: ").rstrip(".") for problem in problems]
    return "; ".join(said) + "." if said else None

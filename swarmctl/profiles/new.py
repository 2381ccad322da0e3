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
from hivemind_exp.errors import ConfigurationError
from swarmctl.errors import UsageError
from swarmctl.keys.server import key_unknown, says_free, server_at
from swarmctl.nodes.lookup import node_names, other_name
from swarmctl.paths import profiles_directory, shown
from swarmctl.profiles.questions import answers, builtin_profile
from swarmctl.profiles.validate import profile_problems
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.allowed import shown as shown_value
from swarmctl.settings.offload_target import OFFLOAD, offload_flags, split_target, typed_address
from swarmctl.settings.options import FLAGS
from swarmctl.settings.problems import Problem, refused
from swarmctl.settings.profile_files import SUFFIX, Profile
from swarmctl.settings.resolve import given, override, problems_of, working_corrections
from swarmctl.settings.schema import SettingPath, dotted, flatten
from swarmctl.settings.sources import Override, anchored, related
from swarmctl.settings.toml_text import TASKS, rendered, wrapped
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.terminal.command_line import command, typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import is_revision, looks_like_key
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
    prompter = Prompter(silent=no_input or as_json)
    if name is None:
        if not prompter.can_ask:
            raise UsageError("missing argument 'NAME'", next="swarmctl profiles new --help")
        name = prompter.answer("Name of the new profile", lambda text: new_path(text, yes=yes, again=""))
        base_name = base_name or builtin_profile(prompter)
    base_name = base_name or "default"
    base = profiles.read(profiles.find_builtin(base_name))
    path = new_path(name, yes=yes, again=_again(name, base_name, settings, "--yes"))
    if prompter.can_ask and not settings:
        settings = [("--set", answer) for answer in answers(base, prompter)]
    overrides = list(
        _overrides(settings, prompter, lambda target: _again(name, base_name, settings, offload=target), name)
    )
    if wrong := [problem for problem in problems_of(base, overrides)[1] if problem.origin.startswith("--")]:
        error = refused(wrong, "swarmctl profiles new --help")
        error.corrections = working_corrections(wrong, base, overrides, {})
        raise error
    text = profile_text(path, base, overrides, by=f"swarmctl profiles new {name}")
    write(path, text)
    if as_json:
        print_json(**written(path))
    else:
        print_written(path)


def profile_text(path: Path, base: Profile, overrides: Sequence[Override], *, by: str) -> str:
    """Return a profile with the values of ``base`` and ``overrides``. ``by``: the command that creates it.

    Raises ConfigurationError if a run would refuse the profile.
    """
    changes = {each.path: anchored(each.path, each.value, Path.cwd()) for each in overrides}
    values = merged(dict(flatten(base.values)), changes)
    if TASKS in values:
        values[TASKS] = task_tables(values[TASKS])
    comment = takewhile(lambda line: line.startswith("#"), base.path.read_text(encoding="utf-8").splitlines())
    head = [
        f"Created by `{by}`. To see all settings: `swarmctl profiles show {path.stem}`.",
        "",
        f"From the built-in profile {base.name}:",
        *wrapped(" ".join(line.removeprefix("#").strip() for line in comment)),
    ]
    text = rendered(values, head=head, description=_description(base, changes), extends=base.extends)
    if problems := problems_in(path, text):
        raise refused(problems, "swarmctl profiles new --help")
    return text


def _overrides(
    settings: Sequence[tuple[str, str]], prompter: Prompter, again: Callable[[str], str], profile: str
) -> Iterator[Override]:
    """Yield the settings that flags stand for. A server at an address is asked for what is not typed.

    ``again`` returns the same command with another value of ``--offload``. ``profile``: the name of the new profile.
    """
    assignments = [text for flag, text in settings if flag == "--set"]
    for flag, text in settings:
        if flag == "--set":
            yield override(text)
        elif flag == OFFLOAD:
            flags = offload_flags(text, assignments)
            found = typed_address(flags)
            yield from (given(*each) for each in flags if each[-1] and (found is None or each[1] == "offload.provider"))
            if found is not None:
                yield from _server(*found, split_target(text)[1], prompter, again, profile=profile)
        else:
            yield given(flag, FLAGS[flag], text)


def _server(
    name: str, url: str, model: str, prompter: Prompter, again: Callable[[str], str], *, profile: str
) -> Iterator[Override]:
    """Yield the settings of a server at an address, for a new profile."""
    server, model = server_at(url, name, model, prompter, again)
    yield given(OFFLOAD, "offload.model", model)
    yield given(OFFLOAD, f"providers.{name}.base_url", server.base_url)
    if server.needs_key:
        yield given(OFFLOAD, f"providers.{name}.needs_key", "true")
    if server.is_free:
        yield given(OFFLOAD, f"providers.{name}.free", "true")
    if not server.knows_key:
        prompter.say(key_unknown(server, free=server.is_free))
        prompter.say(f"  {command(['doctor', 'api', '--profile', profile])}")
    elif server.is_free:
        prompter.say(says_free(name, server))


def _again(
    name: str, base_name: str, settings: Sequence[tuple[str, str]], *more: str, offload: str | None = None
) -> str:
    """Return the same command with ``more``, or with another value of ``--offload``.

    A command that contains a key is not repeated.
    """
    if any(looks_like_key(text) for _, text in settings):
        return "swarmctl profiles new --help"
    words = [word for flag, text in settings for word in (flag, offload if flag == OFFLOAD and offload else text)]
    base = [] if base_name == "default" else ["--from", base_name]
    return command(["profiles", "new", name, *base, *words, *more])


def merged(values: dict[SettingPath, Any], changes: dict[SettingPath, Any]) -> dict[SettingPath, Any]:
    """Return ``values`` with ``changes`` applied. A value replaces a table and vice versa."""
    kept = {path: value for path, value in values.items() if not any(related(path, new) for new in changes)}
    return kept | changes


def _description(base: Profile, changes: dict[SettingPath, Any]) -> str:
    """Return a description. After changes, it does not repeat the base's, which may no longer be true."""
    if not changes:
        return base.description or base.name
    return f"{base.name} with changes to {', '.join(sorted(map(dotted, changes)))}"


def new_path(name: str, *, yes: bool, again: str) -> Path:
    """Return the path for the profile ``name``.

    Raises UsageError if a node could not have this name, ConfigurationError if the file exists and ``yes`` is not set.
    ``again`` is the command that overwrites it.
    """
    if not _NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise UsageError(
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
    say = Writer(sys.stdout)
    say(f"Wrote {shown(path)}.")
    if path.stem in profiles.builtin_names():
        text = f"warning: --profile {path.stem} now means your file, not the built-in profile, also for existing nodes."
        Writer(sys.stderr)(f"{text} To undo this:")
        Writer(sys.stderr)(f"  rm {shlex.quote(str(path))}")
    say("To run it:")
    say(f"  {written(path)['run']}")

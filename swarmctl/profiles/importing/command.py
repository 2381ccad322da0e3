"""``swarmctl profiles import``: RL Swarm's YAML as a profile, with an account of every key."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swarmctl.errors import Exit, exit_code
from swarmctl.keys.set import SetOptions
from swarmctl.profiles.importing.convert import mapped
from swarmctl.profiles.importing.keys import Kept, keep_all, warn_about_secrets
from swarmctl.profiles.importing.result import BAD_VALUE, NO_COUNTERPART, NOT_YET, UNKNOWN, Mapped
from swarmctl.profiles.importing.yaml_file import flat, read_yaml
from swarmctl.profiles.write import new_path, print_written, problems_in, rendered, write, written
from swarmctl.settings.problems import refused
from swarmctl.settings.schema import SettingPath
from swarmctl.settings.sources import anchored
from swarmctl.terminal.command_line import command
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import clean, without_keys

_HEADINGS = {
    NO_COUNTERPART: "Without a counterpart here",
    NOT_YET: "Not yet",
    BAD_VALUE: "Left out, because of their values",
    UNKNOWN: "Not understood",
}


def import_profile(file: str, name: str | None, how: SetOptions, *, yes: bool, as_json: bool) -> Exit:
    """Write the profile, save the keys of services that stood in the file, and say what became of everything.

    ``how`` keys are saved; ``yes`` is for the profile, and answers no question about a key.

    Raises ConfigurationError where no profile can be written, and the NodeError of the first key that was not saved;
    by then all else is done.
    """
    source = Path(os.path.abspath(os.path.expanduser(file)))
    name = name or source.stem
    path = new_path(name, yes=yes, again=command(["profiles", "import", file, "--name", name, "--yes"]))
    result = mapped(dict(flat(read_yaml(source))))
    text = _checked(path, source, result)
    write(path, text)
    if not as_json:
        for line in _account(result):
            print(clean(line))
        print()
        print_written(path)
    kept = keep_all(result.secrets, how)
    if kept:
        warn_about_secrets(source, result.secrets, kept, Prompter(silent=how.no_input))
    failed = [each.error for each in kept if each.error is not None]
    if as_json:
        print(json.dumps(_report(path, result, kept)))
    elif failed:
        raise failed[0]
    return exit_code(failed[0]) if failed else Exit.DONE


def _checked(path: Path, source: Path, result: Mapped) -> str:
    """Return the profile; leave out what the configuration refuses, and say so."""
    while True:
        text = _text(source, result)
        problems = problems_in(path, text)
        if not problems:
            return text
        withdrawn = [result.withdraw(each.key, each.message.removeprefix(f"{each.origin}: ")) for each in problems]
        if not any(withdrawn):
            raise refused(problems, "swarmctl profiles import --help")


def _text(source: Path, result: Mapped) -> str:
    values: Mapping[SettingPath, Any] = {
        each.path: anchored(each.path, each.value, source.parent) for each in result.carried
    }
    # Nothing of the file's text is repeated but its name: what was left out may hold a secret.
    head = [f"Made by `swarmctl profiles import` from {clean(source.name)}, a configuration of RL Swarm."]
    return rendered(values, head=head, description="imported from RL Swarm", extends=None)


def _account(result: Mapped) -> list[str]:
    """Return what became of each key, for people."""
    lines = ["Carried:"] if result.carried else []
    for each in result.carried:
        value = json.dumps(without_keys(each.value), ensure_ascii=False)
        lines.append(f"  {each.key} -> {each.setting} = {value}" + (f" ({each.note})" if each.note else ""))
    for kind, heading in _HEADINGS.items():
        left = [each for each in result.left if each.kind == kind]
        lines += [f"{heading}:"] if left else []
        lines += [f"  {each.key}: {each.why}" for each in left]
    return lines


def _report(path: Path, result: Mapped, kept: Sequence[Kept]) -> dict[str, Any]:
    carried = [
        {"key": each.key, "setting": each.setting, "value": without_keys(each.value), "note": each.note}
        for each in result.carried
    ]
    left = [asdict(each) for each in result.left]
    return {**written(path), "carried": carried, "left": left, "secrets": [each.report() for each in kept]}

"""``swarmctl profiles import``: RL Swarm's YAML as a profile, with an account of every key."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from hivemind_exp.errors import ConfigurationError
from swarmctl.console import Writer
from swarmctl.launcher import command, typed
from swarmctl.paths import shown
from swarmctl.profiletext import rendered
from swarmctl.profilewrite import new_path, problems_in, run_command, write
from swarmctl.resolve import anchored
from swarmctl.schema import Path
from swarmctl.text import clean, without_keys
from swarmctl.yamlfile import flat, read_yaml
from swarmctl.yamlmap import BAD_VALUE, NO_COUNTERPART, NOT_YET, SECRET, UNKNOWN, Mapped, mapped

_HEADINGS = {
    NO_COUNTERPART: "Without a counterpart here",
    NOT_YET: "Not yet",
    BAD_VALUE: "Left out, because of their values",
    UNKNOWN: "Not understood",
}


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The command line of ``profiles import``."""

    file: str
    name: str | None = None
    yes: bool = False
    as_json: bool = False


def import_profile(options: ImportOptions) -> None:
    """Write the profile and say what became of each key. Raises ConfigurationError where nothing can be written."""
    source = File(os.path.abspath(os.path.expanduser(options.file)))
    name = options.name or source.stem
    again = command(["profiles", "import", options.file, "--name", name, "--yes"])
    path = new_path(name, yes=options.yes, again=again)
    result = mapped(dict(flat(read_yaml(source))))
    text = _checked(path, source, result)
    write(path, text)
    if options.as_json:
        print(json.dumps(_report(name, path, result)))
        return
    for line in _account(result):
        print(clean(line))
    print(f"\nWrote {shown(path)}")
    print(f"Run it: {typed(run_command(name))}")
    if any(left.kind == SECRET for left in result.left):
        _tell_off(source, result, Writer(sys.stderr))


def _checked(path: File, source: File, result: Mapped) -> str:
    """Return the profile; leave out what the configuration refuses, and say so."""
    while True:
        text = _text(source, result)
        problems = problems_in(path, text)
        if not problems:
            return text
        withdrawn = [result.withdraw(each.key, each.message.removeprefix(f"{each.origin}: ")) for each in problems]
        if not any(withdrawn):
            raise ConfigurationError("; ".join(map(str, problems)), next="swarmctl profiles import --help")


def _text(source: File, result: Mapped) -> str:
    values: Mapping[Path, Any] = {each.path: anchored(each.path, each.value, source.parent) for each in result.carried}
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


def _tell_off(source: File, result: Mapped, say: Writer) -> None:
    found = ", ".join(left.key for left in result.left if left.kind == SECRET)
    say(
        f"warning: {shown(source)} holds a secret ({found}). A file that is copied and shared is no place for one: "
        "remove it there, revoke it where it was made, and keep a new one where programs cannot leak it."
    )
    for name in result.keys or ["NAME"]:
        say(f"  {typed(f'swarmctl keys set {name}')}")


def _report(name: str, path: File, result: Mapped) -> dict[str, Any]:
    carried = [
        {"key": each.key, "setting": each.setting, "value": without_keys(each.value), "note": each.note}
        for each in result.carried
    ]
    left = [{"key": each.key, "kind": each.kind, "why": each.why} for each in result.left]
    return {
        "schema": 1,
        "name": name,
        "path": str(path),
        "run": typed(run_command(name)),
        "carried": carried,
        "left": left,
        "secrets": result.keys,
    }

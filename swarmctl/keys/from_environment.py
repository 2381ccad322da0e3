"""``swarmctl keys import``: from the environment or a ``.env`` file into the keyring."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hivemind_exp.errors import KeyProblem, NodeError
from hivemind_exp.providers import PROVIDERS
from swarmctl.errors import Exit
from swarmctl.keys.key_text import clean_key
from swarmctl.keys.set import SetOptions, keep_key
from swarmctl.paths import shown
from swarmctl.terminal.prompter import Prompter

_LINE = re.compile(r"""\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*("[^"]*"|'[^']*'|[^\s#]*)""")

"""An assignment. ``dotenv_values`` does not say in which line a key stands, and so which to take out."""
_OWNERS = {variable: row.name for row in PROVIDERS.values() for variable in row.variables}


@dataclass(frozen=True, slots=True)
class _Found:
    """A provider's key, where it was found."""

    name: str
    variable: str
    value: str
    line: int | None


def import_keys(path: Path | None, options: SetOptions) -> Exit:
    """Save every provider's key that the environment, or the file, has. Says what to clean afterwards.

    One key that cannot be saved does not keep the others from it. Raises KeyProblem where there is none.
    """
    prompter = Prompter(yes=options.yes, silent=options.no_input)
    found = _in_file(path) if path is not None else _in_environment(os.environ)
    if not found:
        raise KeyProblem(
            f"{shown(path) if path else 'the environment'} has no key of a provider", next="swarmctl keys set --help"
        )
    saved, failed = [], []
    # What is imported from the environment goes before the keyring until it is unset: said once, at the end.
    quiet = replace(options, tell_shadows=path is not None)
    for each in found:
        try:
            keep_key(
                each.name, clean_key(each.value, f"in {each.variable}"), PROVIDERS[each.name].base_url, quiet, prompter
            )
            saved.append(each)
        except NodeError as error:
            failed.append(error)
            prompter.say(f"Not saved: {each.variable}: {error.message}")
    if saved:
        for line in _to_clean(path, saved):
            prompter.say(line)
    if failed:
        raise failed[0]
    return Exit.DONE


def _in_environment(environment: Mapping[str, str]) -> list[_Found]:
    found = {
        owner: _Found(owner, variable, environment[variable], None)
        for variable, owner in reversed(_OWNERS.items())  # the first variable of a provider counts
        if environment.get(variable, "").strip()
    }
    return [found[name] for name in PROVIDERS if name in found]


def _in_file(path: Path) -> list[_Found]:
    """Return the keys in a ``.env`` file; the last of several lines counts, as in a shell."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyProblem(f"cannot read {shown(path)}: {reason}", next="swarmctl keys import --help") from error
    found = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.match(line)
        if match and match[1] in _OWNERS and match[2].strip("\"'"):
            owner = _OWNERS[match[1]]
            found[owner] = _Found(owner, match[1], match[2], number)
    return list(found.values())


def _to_clean(path: Path | None, saved: list[_Found]) -> list[str]:
    names = [each.variable for each in saved]
    if path is None:
        return [
            "Now take them out of the environment, and out of whatever puts them there (~/.bashrc, ~/.profile): until "
            "then they go before the saved ones.",
            f"  unset {' '.join(names)}",
        ]
    lines = ("line " if len(saved) == 1 else "lines ") + ", ".join(str(each.line) for each in saved)
    expressions = "|".join(names)
    return [
        f"{shown(path)} still holds {'this key' if len(saved) == 1 else 'these keys'} for everyone who reads it "
        f"({lines}). Take {'it' if len(saved) == 1 else 'them'} out:",
        f"  sed -i.bak -E '/^[[:space:]]*(export[[:space:]]+)?({expressions})[[:space:]]*=/d' {shlex.quote(str(path))}"
        f" && rm {shlex.quote(str(path) + '.bak')}",
    ]

"""``swarmctl keys import``: save keys from the environment or a ``.env`` file to the keyring."""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hivemind_exp.errors import KeyProblem, NodeError
from hivemind_exp.providers import PROVIDERS
from swarmctl.errors import Exit, exit_code
from swarmctl.keys.key_text import clean_key, read_text
from swarmctl.keys.set import SetOptions, keep_key, saved_row
from swarmctl.keys.unsaved import final_error, not_saved
from swarmctl.paths import shown
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter

_LINE = re.compile(r"""\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*("[^"]*"|'[^']*'|[^\s#]*)""")
"""An assignment. ``dotenv_values`` does not report line numbers, so it cannot show which lines to remove."""
_OWNERS = {variable: row.name for row in PROVIDERS.values() for variable in row.variables}


class _Found(NamedTuple):
    """A provider's key, and where it was found."""

    name: str
    variable: str
    value: str
    line: int | None


def import_keys(path: Path | None, options: SetOptions, *, as_json: bool) -> Exit:
    """Save every provider key in the environment or the file, then show what to clean up.

    If a key cannot be saved, the others still are; the first such error is raised at the end, or if JSON lists what was
    saved, its exit code returned. Raises KeyProblem if there are no keys.
    """
    prompter = Prompter(yes=options.yes, silent=options.no_input)
    found = _in_file(path) if path is not None else _in_environment()
    if not found:
        where = shown(path) if path else "the environment"
        raise KeyProblem(f"no provider keys in {where}", next="swarmctl keys set --help")
    saved, rows, failed = [], [], []
    # Variables override the imported keys until they are unset: print that once, at the end, not for each key.
    quiet = replace(options, tell_shadows=path is not None, replaces=False)
    for each in found:
        try:
            key = clean_key(each.value, f"in {each.variable}")
            rows.append(saved_row(keep_key(each.name, key, PROVIDERS[each.name].base_url, quiet, prompter)))
            saved.append(each)
        except NodeError as error:
            failed.append((each, error))
            if len(found) > 1:  # otherwise the error says it
                prompter.say(not_saved(each.variable, error))
    for line in _to_clean(path, saved) if saved else ():
        prompter.say(line)
    if as_json and saved:
        kept = [{"name": each.name, "code": error.code, "message": error.message} for each, error in failed]
        print_json(keys=rows, failed=kept)
        return exit_code(failed[0][1]) if failed else Exit.DONE
    if failed:
        first = final_error([error for _, error in failed], len(found))
        words = shlex.split(first.next or "")
        if words[:3] == ["swarmctl", "keys", "set"] and words[4:] == ["--insecure-storage"]:  # import has it, too
            first.next = shlex.join(["swarmctl", "keys", "import", *([str(path)] if path else ()), *words[4:]])
        raise first
    return Exit.DONE


def _in_environment() -> list[_Found]:
    found = []
    for row in PROVIDERS.values():
        if variable := next((each for each in row.variables if os.environ.get(each, "").strip()), None):
            found.append(_Found(row.name, variable, os.environ[variable], None))
    return found


def _in_file(path: Path) -> list[_Found]:
    """Return the keys in a ``.env`` file. If a provider has several lines, the last one counts, as in a shell."""
    found = {}
    for number, line in enumerate(read_text(path, shown(path), next="swarmctl keys import --help").splitlines(), 1):
        match = _LINE.match(line)
        if match and (owner := _OWNERS.get(match[1])) and match[2].strip("\"'"):
            found[owner] = _Found(owner, match[1], match[2], number)
    return list(found.values())


def _to_clean(path: Path | None, saved: list[_Found]) -> list[str]:
    names = [each.variable for each in saved]
    if path is None:
        return [
            "Environment variables override saved keys. Unset them, and remove them from the files that set them "
            "(~/.bashrc, ~/.profile):",
            f"  unset {' '.join(names)}",
        ]
    keys, lines, them = ("this key", "line", "it") if len(saved) == 1 else ("these keys", "lines", "them")
    numbers = ", ".join(str(each.line) for each in saved)
    script = f"'/^[[:space:]]*(export[[:space:]]+)?({'|'.join(names)})[[:space:]]*=/d'"
    return [
        f"{shown(path)} still contains {keys} in plain text ({lines} {numbers}). Remove {them}:",
        f"  sed -i.bak -E {script} {shlex.quote(str(path))} && rm {shlex.quote(f'{path}.bak')}",
    ]

"""``swarmctl profiles import``: write a profile from RL Swarm's YAML, report on every setting, save its API keys."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign, visible
from hivemind_exp.providers import PROVIDERS
from swarmctl.errors import Exit, exit_code
from swarmctl.keys.key_text import clean_key
from swarmctl.keys.set import SetOptions, keep_key
from swarmctl.keys.unsaved import final_error, not_saved
from swarmctl.paths import shown
from swarmctl.profiles.importing.convert import BAD_VALUE, NO_COUNTERPART, UNKNOWN, Mapped, Secret, mapped
from swarmctl.profiles.importing.yaml_file import flat, read_yaml
from swarmctl.profiles.new import new_path, print_written, problems_in, write, written
from swarmctl.settings.problems import refused
from swarmctl.settings.schema import SettingPath
from swarmctl.settings.sources import anchored
from swarmctl.settings.toml_text import rendered
from swarmctl.terminal.command_line import command, typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import without_keys
from swarmctl.terminal.views import Writer

_HEADINGS = {
    NO_COUNTERPART: "Not used here",
    BAD_VALUE: "Skipped because of an invalid value",
    UNKNOWN: "Unknown",
}


def import_profile(file: str, name: str | None, how: SetOptions, *, yes: bool, as_json: bool) -> Exit:
    """Write the profile, save the API keys found in the file, and print what each setting became.

    ``how`` says how to save keys. ``yes`` lets it overwrite the profile, but answers no question about a key.

    Raises ConfigurationError if no profile can be written, or the NodeError of the first key that could not be saved;
    everything else is done by then.
    """
    source = Path(os.path.abspath(os.path.expanduser(file)))
    name = name or source.stem
    path = new_path(name, yes=yes, again=command(["profiles", "import", file, "--name", name, "--yes"]))
    result = mapped(dict(flat(read_yaml(source))))
    write(path, _checked(path, source, result))
    if not as_json:
        say = Writer(sys.stdout)
        for line in _account(result):
            say(line, indent="    ")
        say("")
        print_written(path)
    prompter, how = Prompter(silent=how.no_input), replace(how, replaces=False)
    kept = _keep_all(result.secrets, how, prompter)
    if kept:
        _warn_about_secrets(source, result.secrets, kept, prompter)
    failed = [each.error for each in kept if each.error is not None]
    if as_json:
        carried = [
            {"key": each.key, "setting": each.setting, "value": without_keys(each.value), "note": each.note}
            for each in result.carried
        ]
        left = [asdict(each) for each in result.left]
        print_json(**written(path), carried=carried, left=left, secrets=[each.report() for each in kept])
    elif failed:
        raise final_error(failed, len([each for each in kept if each.name]))
    return exit_code(failed[0]) if failed else Exit.DONE


def _checked(path: Path, source: Path, result: Mapped) -> str:
    """Return the profile's text, without the settings that the configuration rejects; record those as left."""
    # Only the file's name is repeated, none of its text: settings that were left out may hold a secret.
    head = [f"Created by `swarmctl profiles import` from {visible(source.name)}, an RL Swarm configuration."]
    while True:
        values: Mapping[SettingPath, Any] = {
            each.path: anchored(each.path, each.value, source.parent) for each in result.carried
        }
        text = rendered(values, head=head, description="imported from RL Swarm", extends=None)
        problems = problems_in(path, text)
        if not problems:
            return text
        withdrawn = [result.withdraw(each.key, each.message.removeprefix(f"{each.origin}: ")) for each in problems]
        if not any(withdrawn):
            raise refused(problems, "swarmctl profiles import --help")


def _account(result: Mapped) -> list[str]:
    """Return lines on what each setting of the file became."""
    lines = ["Imported:"] if result.carried else []
    for each in result.carried:
        value = json.dumps(without_keys(each.value), ensure_ascii=False)
        lines.append(f"  {foreign(each.key)} -> {each.setting} = {value}" + (f" ({each.note})" if each.note else ""))
    for kind, heading in _HEADINGS.items():
        left = [f"  {foreign(each.key)}: {each.why}" for each in result.left if each.kind == kind]
        lines += [f"{heading}:", *left] if left else []
    return lines


def _keep_all(secrets: Sequence[Secret], how: SetOptions, prompter: Prompter) -> list[Secret]:
    """Save each secret whose service is known, like ``keys set``; return the first secret of each service.

    If one cannot be saved, the others still are.
    """
    kept: list[Secret] = []
    count = len({secret.name for secret in secrets if secret.name})
    for secret in secrets:
        if any(secret.name and secret.name == other.name for other in kept):
            continue
        kept.append(secret)
        try:
            if secret.name:
                key = clean_key(secret.value, f"at {secret.key}")
                keep_key(secret.name, key, PROVIDERS[secret.name].base_url, how, prompter)
        except NodeError as refusal:
            secret.error = refusal
            if count > 1:  # otherwise the error says it
                prompter.say(not_saved(secret.key, refusal))
    return kept


def _warn_about_secrets(source: Path, secrets: Sequence[Secret], kept: Sequence[Secret], prompter: Prompter) -> None:
    """Warn that the file holds secrets, and print the commands that fix it."""
    found = list(dict.fromkeys(foreign(secret.key) for secret in secrets))
    what, it, its = ("a secret", "it", "its") if len(found) == 1 else ("secrets", "them", "their")
    prompter.say(
        f"warning: {shown(source)} contains {what} ({', '.join(found)}). Secrets don't belong in files that are copied "
        f"and shared. Remove {it} from the file, and revoke {it} at {its} service if anyone else could have read {it}."
    )
    if removal := _removal(source, secrets):
        prompter.say(f"  {removal}")
    for each in kept:
        if not each.saved:
            prompter.say("  " + typed(f"swarmctl keys set {each.name or 'NAME'}"))


def _removal(source: Path, secrets: Sequence[Secret]) -> str | None:
    """Return the command that removes the lines with secrets; None if a secret is not on a separate line."""
    text = source.read_text(encoding="utf-8")
    names = [re.escape(secret.key.rsplit(".", 1)[-1]) for secret in secrets]
    for name, secret in zip(names, secrets, strict=True):
        line = rf"^\s*{name}\s*:\s*['\"]?{re.escape(secret.value)}['\"]?\s*(#.*)?$"
        if not secret.value or not re.search(line, text, re.MULTILINE):
            return None
    backup = shlex.quote(f"{source}.bak")
    lines = "|".join(dict.fromkeys(names))
    return f"sed -i.bak -E '/^[[:space:]]*({lines})[[:space:]]*:/d' {shlex.quote(str(source))} && rm {backup}"

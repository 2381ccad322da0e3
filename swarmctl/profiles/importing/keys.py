"""Keys found in a configuration that is imported: into the keyring, and the file told off."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.key_text import clean_key
from swarmctl.keys.set import SetOptions, keep_key
from swarmctl.paths import shown
from swarmctl.profiles.importing.result import Secret
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.prompter import Prompter


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of one secret."""

    secret: Secret
    error: NodeError | None
    """Why it was not saved; None also where nobody knows what it is for."""

    @property
    def saved(self) -> bool:
        return bool(self.secret.name) and self.error is None

    def report(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        why = self.error.message if self.error else None if self.saved else "it is not known which service it is for"
        return {"key": self.secret.key, "name": self.secret.name or None, "saved": self.saved, "why": why}


def keep_all(secrets: Sequence[Secret], options: SetOptions) -> list[Kept]:
    """Save each secret whose service is known, as ``keys set`` would; the first of several for one service.

    One that cannot be saved does not keep the others from it.
    """
    prompter = Prompter(yes=options.yes, silent=options.no_input)
    kept: list[Kept] = []
    for secret in secrets:
        if any(secret.name and secret.name == other.secret.name for other in kept):
            continue
        kept.append(Kept(secret, _keep(secret, options, prompter) if secret.name else None))
    return kept


def _keep(secret: Secret, options: SetOptions, prompter: Prompter) -> NodeError | None:
    try:
        key = clean_key(secret.value, f"at {secret.key}")
        keep_key(secret.name, key, PROVIDERS[secret.name].base_url, options, prompter)
    except NodeError as error:
        prompter.say(f"Not saved: {secret.key}: {error.message}")
        return error
    return None


def warn_about_secrets(source: Path, secrets: Sequence[Secret], kept: Sequence[Kept], say: Prompter) -> None:
    """Say what is wrong with a file that holds secrets, and what to type."""
    found = ", ".join(dict.fromkeys(secret.key for secret in secrets))
    say.say(
        f"warning: {shown(source)} holds a secret ({found}). A file that is copied and shared is no place for one: "
        "remove it there, and if anybody else could have read it, revoke it where it was made."
    )
    if command := _removal(source, secrets):
        say.say(f"  {command}")
    for each in kept:
        if not each.saved:
            say.say("  " + typed(f"swarmctl keys set {each.secret.name or 'NAME'}"))


def _removal(source: Path, secrets: Sequence[Secret]) -> str | None:
    """Return the command that takes the lines out; None where a secret does not stand on a line of its own."""
    text = source.read_text(encoding="utf-8")
    names = [re.escape(secret.key.rsplit(".", 1)[-1]) for secret in secrets]
    for name, secret in zip(names, secrets, strict=True):
        line = rf"^\s*{name}\s*:\s*['\"]?{re.escape(secret.value)}['\"]?\s*(#.*)?$"
        if not secret.value or not re.search(line, text, re.MULTILINE):
            return None
    backup = shlex.quote(f"{source}.bak")
    lines = "|".join(dict.fromkeys(names))
    return f"sed -i.bak -E '/^[[:space:]]*({lines})[[:space:]]*:/d' {shlex.quote(str(source))} && rm {backup}"

"""The command that was typed, with misspelled settings corrected."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hivemind_exp.errors import ConfigurationError
from swarmctl.errors import UsageError
from swarmctl.terminal.command_line import launcher
from swarmctl.terminal.safe_text import looks_like_key

_SET = "--set"


@dataclass(frozen=True, slots=True)
class Correction:
    """What was probably meant by a setting that was typed."""

    origin: str
    """Where it was typed: ``--set``, another option, or a variable (``$NAME``)."""
    typed: str
    """The setting's name (dotted) as it was typed."""
    name: str
    """The right name: dotted, or that of a variable."""
    value: str | None = None
    """The right value; None if the typed one is right."""


class SettingsRefused(ConfigurationError):
    """Settings are wrong. ``corrections``: one for each of them, and together they work; else empty."""

    corrections: tuple[Correction, ...] = ()


class OptionsRefused(UsageError):
    """The values of options are wrong. ``corrections``: one for each of them, and together they work; else empty."""

    corrections: tuple[Correction, ...] = ()


def corrected(error: Exception, arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the command with the settings that ``error`` is about corrected, quoted for a shell.

    ``arguments``: those of the command line. None if it is unknown what was meant, if something was not typed here but
    comes from a profile or from a node's last run, or if the command contains anything that looks like a key.
    """
    found = error.corrections if isinstance(error, SettingsRefused | OptionsRefused) else ()
    words, removed, added = list(arguments), [], []
    for each in found:
        if each.origin.startswith("$"):
            wrong = each.origin[1:]
            removed += [wrong] if wrong != each.name else []
            added.append(f"{each.name}={environment[wrong] if each.value is None else each.value}")
        elif (changed := _replaced(words, each)) != words:
            words = changed
        else:
            return None
    if not found or any(map(looks_like_key, [*words, *added])) or not all(map(str.isprintable, [*words, *added])):
        return None
    command = f"{launcher()} {shlex.join(words)}"
    if not added:
        return command
    without = [option for name in removed for option in ("-u", name)]
    return f"{shlex.join([*(['env'] if removed else []), *without])} {_assigned(added)} {command}".lstrip()


def _assigned(variables: Iterable[str]) -> str:
    """Return ``NAME=VALUE`` for each variable, with quotes around the value only, as a shell needs them."""
    parts = (each.partition("=") for each in variables)
    return " ".join(f"{name}={shlex.quote(value)}" for name, _, value in parts)


def _replaced(words: Sequence[str], correction: Correction) -> list[str]:
    """Return the words of a command with a correction applied wherever its setting was typed."""
    option, result = correction.origin, list(words)
    for place, word in enumerate(words):
        joined = word.startswith(f"{option}=")
        if not joined and (place == 0 or words[place - 1] != option):
            continue
        text = word.removeprefix(f"{option}=") if joined else word
        result[place] = (f"{option}=" if joined else "") + _corrected_text(text, correction)
    return result


def _corrected_text(text: str, correction: Correction) -> str:
    if correction.origin != _SET:
        return text if correction.value is None else correction.value
    name, _, value = text.partition("=")
    if name.strip() != correction.typed:
        return text
    return f"{correction.name}={value.strip() if correction.value is None else correction.value}"

"""The script for zsh: one function per command, built on zsh's ``_arguments``."""

from __future__ import annotations

from collections.abc import Iterator

from tools.completions.tree import Argument, Command, Kind, Option, Value
from tools.completions.words import PROFILES, setting_help, setting_values

_ACTIONS = {
    Kind.NONE: " ",
    Kind.PROFILE: "_swarmctl_profiles",
    Kind.NODE: "_swarmctl_nodes",
    Kind.SETTING: "_swarmctl_settings",
    Kind.FILE: "_files",
    Kind.DIRECTORY: "_files -/",
}


def fill(root: Command) -> dict[str, str]:
    """Return the text that replaces each mark in the template."""
    return {
        "profiles": " ".join(PROFILES),
        "settings": "\n".join(f"      {_pair(key, help)}" for key, help in sorted(setting_help().items())),
        "values": "\n".join(
            f"    {key}) list=({' '.join(values)}) ;;" for key, values in sorted(setting_values().items()) if values
        ),
        "functions": "\n\n".join(_function(command) for command in root.walk()),
    }


def _name(command: Command) -> str:
    return "_".join(("_swarmctl", *(f"_{part}" for part in command.path)))


def _function(command: Command) -> str:
    specs = [spec for option in command.options for spec in _option(option)]
    if not command.commands:
        specs += [_argument(argument) for argument in command.arguments]
        return f"{_name(command)}() {{\n  _arguments -S \\\n    {_lines(specs)}\n}}"
    specs += ["'(-): :->command'", "'(-)*:: :->rest'"]
    described = "\n".join(f"        {_pair(child.name, child.help)}" for child in command.commands)
    entered = "\n".join(
        f"        {'|'.join((child.name, *child.aliases))}) {_name(child)} && ret=0 ;;" for child in command.commands
    )
    return f"""{_name(command)}() {{
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \\
    {_lines(specs)} && ret=0
  case $state in
    command)
      list=(
{described}
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
{entered}
      esac
      ;;
  esac
  return ret
}}"""


def _lines(specs: list[str]) -> str:
    return " \\\n    ".join(specs)


def _option(option: Option) -> Iterator[str]:
    """Yield one specification per name. A repeatable option has a star; any other option excludes its other names."""
    head = "*" if option.multiple else f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    for name in option.names:
        joined = "" if option.value is None else "=" if name.startswith("--") else "+"
        value = "" if option.value is None else f":{_escaped(option.value.name)}:{_action(option.value)}"
        yield _quoted(f"{head}{name}{joined}[{_escaped(option.help)}]{value}")


def _argument(argument: Argument) -> str:
    star = "*" if argument.multiple else ""
    return _quoted(f"{star}:{_escaped(argument.value.name)}:{_action(argument.value)}")


def _action(value: Value) -> str:
    return f"({' '.join(value.words)})" if value.kind is Kind.WORDS else _ACTIONS[value.kind]


def _pair(word: str, help: str) -> str:
    return _quoted(f"{word.replace(':', chr(92) + ':')}:{help}")


def _escaped(text: str) -> str:
    """Escape the characters that would end a part of a specification."""
    for character in "\\[]:":
        text = text.replace(character, "\\" + character)
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"

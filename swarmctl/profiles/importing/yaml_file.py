"""Read untrusted YAML: small, without aliases, and never quoted in an error, because it may contain keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hivemind_exp.errors import ConfigurationError
from swarmctl.paths import shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, with its keys as strings.

    Raises ConfigurationError if there is no mapping, or if the file is too large or nested too deeply.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {shown(path)}: {error.strerror}", next="swarmctl profiles import --help"
        ) from error
    if len(data) > MAX_BYTES:
        raise ConfigurationError(
            f"{shown(path)} is too large for a configuration: the limit is {MAX_BYTES // 1024} KiB"
        )
    try:
        text = data.decode("utf-8")
        _check(text, path)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{shown(path)} is not valid YAML{where}") from None
    except (yaml.YAMLError, ValueError):  # ValueError: invalid UTF-8, nonexistent dates, huge numbers
        raise ConfigurationError(f"{shown(path)} is not valid YAML") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{shown(path)} has no settings: expected lines of KEY: VALUE")
    return {str(key): value for key, value in content.items()}


def flat(content: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, and of lists of mappings, under dotted keys."""
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            yield from flat(value, name)
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            yield from flat(dict(enumerate(value)), name)
        else:
            yield name, value


def _check(text: str, path: Path) -> None:
    """Reject what parsing would expand, overflow on or drop: aliases, deep nesting and duplicate keys."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigurationError(
                f"{shown(path)} has aliases (*name), which are not supported: replace them with their values"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigurationError(f"{shown(path)} is nested too deeply: the limit is {MAX_DEPTH} levels")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        names = [key.value for key, _ in root.value]
        for key, _ in root.value:
            if isinstance(key, yaml.ScalarNode) and names.count(key.value) > 1:
                line = key.start_mark.line + 1
                raise ConfigurationError(f"{shown(path)} has the key in line {line} twice: remove one")

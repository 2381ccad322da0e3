"""Profiles: TOML files that configure a node, found by name or path. Reading them does not need pydantic.

Besides the tables of ``hivemind_exp.config``, a profile may have ``description`` (one line for lists) and ``extends``
(the name or path of one other profile, which it changes). The other profile may not extend a third one.
"""

import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.errors import ConfigurationError, NodeError
from swarmctl.paths import BUILTIN, profiles_directory, shown

VARIABLE = "SWARMCTL_PROFILE"
DEFAULT = "default"
SUFFIX = ".toml"
_UNNAMED = "profile"
"""The name of a file that says nothing about the profile."""
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile as written in its file: not yet checked against the configuration."""

    name: str
    path: Path
    description: str | None
    extends: str | None
    values: dict[str, Any]

    @property
    def builtin(self) -> bool:
        return self.path.parent == BUILTIN

    @property
    def node(self) -> str:
        """The name of its node, if none is given: its own. A file called ``profile.toml`` is named by its directory."""
        if self.name != _UNNAMED or self.path.parent == profiles_directory():
            return self.name
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.parent.name).strip("._-")[:_LONGEST_NAME] or self.name

    @property
    def label(self) -> str:
        """Where it comes from, for display."""
        return f"built-in {self.name}" if self.builtin else f"profile {shown(self.path)}"

    @property
    def reference(self) -> str:
        """What finds it from any directory: its name if that is enough, else its path."""
        in_place = self.builtin or self.path.parent == profiles_directory()
        return self.name if in_place and find(self.name) == self.path else str(self.path)


def _paths(directory: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(directory.glob(f"*{SUFFIX}"))}


def known_profiles() -> dict[str, Path]:
    """Return every named profile. The user's profiles hide built-in ones of the same name."""
    return _paths(BUILTIN) | _paths(profiles_directory())


def builtin_names() -> set[str]:
    """Return the names of the built-in profiles."""
    return set(_paths(BUILTIN))


def is_builtin(reference: str) -> bool:
    """Whether a profile's reference finds a built-in profile, not one of the user's."""
    path = known_profiles().get(reference)
    return path is not None and path.parent == BUILTIN


def find(reference: str) -> Path:
    """Return the file of a profile, given its name or the path of a ``.toml`` file.

    Raises ConfigurationError if it does not exist, with the most similar name that does.
    """
    if reference.endswith(SUFFIX) or os.sep in reference:
        path = Path(os.path.abspath(os.path.expanduser(reference)))
        if not path.is_file():
            raise ConfigurationError(f"profile file not found: {shown(path)}", next="swarmctl profiles list")
        return path
    return _named(reference, known_profiles(), "profile")


def find_builtin(name: str) -> Path:
    """Return the file of a built-in profile. Raises ConfigurationError like ``find``."""
    return _named(name, _paths(BUILTIN), "built-in profile")


def _named(name: str, known: Mapping[str, Path], what: str) -> Path:
    if name in known:
        return known[name]
    from swarmctl.terminal.suggest import nearest  # imports difflib, which only wrong names need

    guess = nearest(name, known)
    hint = f"; did you mean {guess}?" if guess else ""
    raise ConfigurationError(f"unknown {what} {name!r}{hint}", next="swarmctl profiles list")


def read(path: Path) -> Profile:
    """Read one profile. Raises ConfigurationError if it is not TOML, or ``description`` or ``extends`` is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {shown(path)}: {error.strerror}", next="swarmctl profiles list"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{shown(path)} is not valid TOML: it is not UTF-8 text", next=_edit(path)) from error
    return parsed(path, text)


def parsed(path: Path, text: str) -> Profile:
    """Return the profile at ``path`` with ``text`` as its content. Raises ConfigurationError like ``read``."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{shown(path)} is not valid TOML: {error}", next=_edit(path)) from error
    heads = {}
    for key in ("description", "extends"):
        heads[key] = values.pop(key, None)
        if heads[key] is not None and not isinstance(heads[key], str):
            raise ConfigurationError(f"{shown(path)}: {key} must be a string", next=_validate(path))
    return Profile(path.stem, path, heads["description"], heads["extends"], values)


def _validate(path: Path) -> str:
    return f"swarmctl profiles validate {shlex.quote(str(path))}"


def _edit(path: Path) -> str:
    """Return the command that repairs a file: validating it would only find the same error again."""
    return f"swarmctl profiles edit {shlex.quote(path.stem if path.parent == profiles_directory() else str(path))}"


def family(profile: Profile) -> list[Profile]:
    """Return the profile, preceded by the one it extends, if any.

    A profile that extends its own name extends the built-in profile that it hides.
    """
    if profile.extends is None:
        return [profile]
    base_path = _base_path(profile, profile.extends)
    if base_path == profile.path:
        raise ConfigurationError(f"{profile.label} extends itself", next="swarmctl profiles list")
    base = read(base_path)
    if base.extends is not None:
        raise ConfigurationError(
            f"{profile.label} extends {base.name}, which extends {base.extends}: only one level is allowed",
            next=_validate(profile.path),
        )
    return [base, profile]


def _base_path(profile: Profile, extends: str) -> Path:
    if extends == profile.name and not profile.builtin and extends in builtin_names():
        return find_builtin(extends)
    if extends.endswith(SUFFIX):
        return find(str(profile.path.parent / Path(extends).expanduser()))
    try:
        return find(extends)
    except NodeError as error:
        raise ConfigurationError(f"{profile.label}: extends: {error.message}", next=error.next) from error


def chosen(flag: str | None, fallback: str | None = None) -> str:
    """Return which profile a command uses: flag, ``fallback``, ``SWARMCTL_PROFILE``, then ``default``.

    ``fallback`` is the profile of an existing node's last run: naming the node counts more than a variable.
    """
    return flag or fallback or os.environ.get(VARIABLE) or DEFAULT


def user_chose() -> bool:
    """Whether the profile of a command without ``--profile`` is the user's choice, not the built-in default."""
    return bool(os.environ.get(VARIABLE)) or not is_builtin(DEFAULT)

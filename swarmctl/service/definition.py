"""What a service runs, in the terms that systemd, launchd and Docker share."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.list_command import list_command
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.secrets import without_secrets
from swarmctl.errors import Exit, UsageError
from swarmctl.keys.finder import KeyLocation, LocationKind, key_locations
from swarmctl.keys.for_run import located_keys, needed
from swarmctl.keys.key_text import file_variable
from swarmctl.nodes.installed_service import service_name
from swarmctl.paths import HOME_VARIABLE, shown
from swarmctl.settings.command_line import last_config
from swarmctl.terminal.command_line import program

FINAL = (Exit.USAGE, Exit.CONFIGURATION, Exit.CHECK_FAILED, Exit.LIMIT, Exit.INTERRUPTED)
"""Exit codes after which a restart would not help. (0 needs none, and 1 may be temporary.)"""
RESTART_S = 30
"""Seconds until the system restarts a service that has failed. ``swarmctl`` restarts the trainer by itself, sooner."""
STOP_S = 60
"""Seconds that a service has to save and stop."""
_PASSED_ON = (
    *(HOME_VARIABLE, "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "all_proxy", "no_proxy"),
)
"""Variables that a service gets from the shell in which it is installed."""


@dataclass(frozen=True, slots=True)
class Service:
    """One node as a service."""

    node: str
    directory: Path
    """The node's directory."""
    program: tuple[str, ...]
    """How swarmctl is started, with absolute paths."""
    environment: Mapping[str, str]
    key_files: Mapping[str, Path]
    """Files with keys, by the key's name."""
    device: str
    """As ``model.device``."""

    @property
    def name(self) -> str:
        """The service's name on this system."""
        return service_name(self.node)

    def command(self, *, zero_if_final: bool) -> tuple[str, ...]:
        """Return what the service runs. ``zero_if_final``: see ``swarmctl service run``."""
        return (*self.program, "service", "run", self.node, *(["--zero-if-final"] if zero_if_final else []))


def define(files: NodeFiles, keys: Sequence[str], environment: Mapping[str, str]) -> tuple[Service, list[str]]:
    """Return a node's service, and sentences on what it will lack.

    ``keys``: further key files, as ``NAME=FILE``. Raises ConfigurationError if the node has never run: its settings,
    and what it may spend, come from its last run.
    """
    config = last_config(files)
    key_files = dict(map(_key_file, keys))
    warnings = []
    for name, spot in _located(config, environment):
        if name in key_files or spot is None:
            continue
        if spot.place is LocationKind.KEY_FILE:
            key_files[name] = _absolute(Path(spot.source).expanduser())
        elif spot.place is LocationKind.ENVIRONMENT:
            warnings.append(
                f"a service does not have {spot.where}, so it has no key for {name}. Give it a file: {_flag(name)}"
            )
        elif spot.place is LocationKind.KEYRING:
            warnings.append(
                f"the key for {name} is in the keyring, which may be locked until you log in. A file always works: "
                f"{_flag(name)}"
            )
    passed = {name: environment[name] for name in _PASSED_ON if environment.get(name)}
    secret = [name for name, value in passed.items() if "@" in value or name not in without_secrets(passed)]
    warnings += [f"${name} may contain a password, so the service does not get it" for name in secret]
    kept = {name: value for name, value in passed.items() if name not in secret}
    if HOME_VARIABLE in kept:
        kept[HOME_VARIABLE] = os.path.abspath(os.path.expanduser(kept[HOME_VARIABLE]))
    service = Service(files.root.name, files.root.absolute(), program(), kept, key_files, config.model.device)
    return service, warnings


def _located(config: Config, environment: Mapping[str, str]) -> list[tuple[str, KeyLocation | None]]:
    """Return the keys that a node's run may need, each with the location that has it."""
    found = [(endpoint.name, spot) for endpoint, spot in located_keys(config, environment)]
    return found + [(name, next(iter(key_locations(name, environment)), None)) for name in needed(config, environment)]


def _key_file(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not name or not file:
        raise UsageError(f"--key needs NAME=FILE, not {name!r}", next="swarmctl service install --help")
    path = _absolute(Path(file).expanduser())
    if not path.is_file():
        raise ConfigurationError(f"there is no file {shown(path)}", next=list_command(path))
    return name, path


def _flag(name: str) -> str:
    return f"--key {name}=FILE"


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def key_variables(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the variables that name files with keys."""
    return {file_variable(name): str(path) for name, path in files.items()}

"""The settings that a command line leads to, on top of the node's last run, and the command that repeats a run."""

import json
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError, FileProblem, NewerFormat, NodeError, SwarmError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.formats import FORMAT, read_object
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm import invitation
from swarmctl.errors import UsageError
from swarmctl.nodes import lookup
from swarmctl.nodes.directory import identity
from swarmctl.paths import BUILTIN
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.offload_target import OFFLOAD, SERVE
from swarmctl.settings.options import FLAGS, RunOptions
from swarmctl.settings.resolve import Resolved, given, override, resolve
from swarmctl.settings.retired import RETIRED
from swarmctl.settings.schema import SettingPath, dotted, flatten
from swarmctl.settings.sources import FROM_PROFILE, NAME, REMEMBERED, Override
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.terminal.safe_text import is_revision, without_keys

JOIN = ("swarm", "join")
FRESH = ("node", "fresh")
_PROVIDER, _MODEL = ("offload", "provider"), ("offload", "model")
_FIXED = {"node.name", "node.fresh", "swarm.join"}
"""Settings that cannot change; of an invitation, only the addresses may differ."""


def resolved_options(options: RunOptions) -> Resolved:
    """Return the configuration for a command line.

    ``--node NAME`` without ``--profile`` repeats that node's last run; what this command sets overrides it.
    """
    overrides = [override(text) for text in options.assignments]
    for flag, key, text in options.flags:
        # Accepts an invitation that was wrapped over several lines when it was sent.
        overrides.append(given(flag, key, _invitation(text) if flag == "--join" else text))
    if options.fresh:
        overrides.append(Override(FRESH, True, "--fresh"))
    last = None
    if options.node is not None:
        overrides.append(Override(NAME, options.node, "--node"))
        last = read_last(lookup.files_of(options.node)) if options.profile is None else None
    profile = profiles.read(_profile_file(options, last, overrides))
    latest: dict[SettingPath, Override] = {}
    for each in [*(last.overrides if last else ()), *overrides]:
        latest.pop(each.path, None)  # moved to the end: lora=false undoes the settings of lora before it
        latest[each.path] = each
    resolved = replace(resolve(profile, list(latest.values()), os.environ), names_profile=options.profile is not None)
    _check_gpus(resolved)
    return resolved


def _invitation(text: str) -> str:
    """Return an invitation in its usual form. Raises UsageError if the text is none."""
    try:
        return str(invitation.parse(text))
    except SwarmError as error:
        raise UsageError(error.message, next=error.next) from error


def _check_gpus(resolved: Resolved) -> None:
    """Raise ConfigurationError if several GPUs are asked for and the device is a CPU."""
    device, processes = resolved.config.model.device, resolved.config.train.processes
    if processes > 1 and device == "cpu" and resolved.origins.get("train.processes") == "--gpus":
        raise ConfigurationError(
            f"--gpus {processes} cannot be used with model.device = cpu. For processes that share the CPU, use "
            f"--set train.processes={processes}",
            next=rerun(resolved, changes={("model", "device"): "cuda"}),
        )


def _profile_file(options: RunOptions, last: "LastRun | None", overrides: Sequence[Override]) -> Path:
    """Return the profile's file. Raises ConfigurationError if it does not exist."""
    try:
        return profiles.find(profiles.chosen(options.profile, last.profile if last else None))
    except ConfigurationError:
        if last is None or options.node is None:
            raise
        name, lost = options.node, last.profile
        raise ConfigurationError(
            f"the last run of node {name} used the profile {foreign(lost)}, which no longer exists. The same settings "
            "without it follow",
            next=without_profile(name, last, overrides),
        ) from None


def without_profile(node: str, last: "LastRun", overrides: Sequence[Override]) -> str:
    """Return the command that resumes a node whose profile is gone: a built-in profile, and what differs from it.

    ``overrides``: what the command line sets in addition.

    A later ``run --node`` repeats it without these settings.
    """
    config = Config.model_validate({key: value for key, value in last.config.items() if key in Config.model_fields})
    typed = {each.path: each.value for each in overrides if each.path not in (NAME, FRESH)}
    words = ["swarmctl", "run", "--node", node, *portable_arguments(config, typed)]
    return shlex.join([*words, *(["--fresh"] if any(each.path == FRESH for each in overrides) else [])])


def portable_arguments(config: Config, typed: Mapping[SettingPath, Any] = MappingProxyType({})) -> list[str]:
    """Return arguments of ``run`` that lead to a configuration on a machine that has only the built-in profiles.

    They name the built-in profile that is closest, and set what differs from it. ``typed``: settings in addition. The
    node's name is not among them.
    """
    bases = (profiles.read(profiles.find_builtin(name)) for name in sorted(profiles.builtin_names()))
    differing = {base.name: _differing(config, resolve(base, [], {}).config) for base in bases}
    unset = {name: sum(value is None for value in values.values()) for name, values in differing.items()}
    # The command line cannot unset a value.
    base = min(differing, key=lambda name: (unset[name], len(differing[name]), name != profiles.DEFAULT))
    words = ["--profile", base]
    for path, value in {**differing[base], **typed}.items():
        words += [] if value is None else ["--join", value] if path == JOIN else _assignment(path, value)
    return words


def _differing(config: Config, base: Config) -> dict[SettingPath, Any]:
    """Return the values of ``config`` that ``base`` does not have, except for those that the node's files fix."""
    before, fixed = dict(flatten(base.model_dump(mode="json"))), {NAME, FRESH}
    if config.swarm.join:
        fixed |= {("tasks",), ("game", "kind"), ("game", "group_size")}
    found = {
        path: value
        for path, value in flatten(config.model_dump(mode="json"))
        if path not in fixed and before.get(path) != value and value != {}
    }
    if config.model.lora is None and base.model.lora is not None:
        found["model", "lora"] = False
    if ("tasks",) in found:
        found["tasks",] = set_values(found["tasks",])
    return found


@dataclass(frozen=True, slots=True)
class LastRun:
    """A node's latest command, and the configuration it led to."""

    profile: str
    overrides: tuple[Override, ...]
    config: dict[str, Any]


def read_last(files: NodeFiles) -> LastRun | None:
    """Return a node's latest run; None if it never ran. Raises FileProblem if the file is damaged or newer."""
    try:
        record = read_object(files.config)
        if record is None:
            return None
        paths = {tuple(key.split(".")): value for key, value in record["overrides"].items()}
        overrides = (Override(path, value, REMEMBERED) for path, value in paths.items() if path not in RETIRED)
        return LastRun(record["profile"], tuple(overrides), dict(record["config"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileProblem(f"{files.config} is damaged: it does not describe a run", next=_again(files)) from error
    except NewerFormat:
        raise
    except FileProblem as error:
        error.next = _again(files)
        raise


def last_config(files: NodeFiles) -> Config:
    """Return the configuration of a node's latest run.

    Raises ConfigurationError if it never ran, and FileProblem if the file is damaged or newer.
    """
    last, name = read_last(files), files.root.name
    if last is None:
        raise ConfigurationError(f"node {name} has not run yet", next=shlex.join(["swarmctl", "run", "--node", name]))
    for section, key in RETIRED:
        last.config.get(section, {}).pop(key, None)
    try:
        return Config.model_validate(last.config)
    except ValueError as error:
        raise FileProblem(f"{files.config} is damaged: it has unknown settings", next=_again(files)) from error


def _again(files: NodeFiles) -> str:
    """Return a command that resumes a node whose last command is lost. Its profile has the same model and tasks."""
    made, node = read_json(files.identity) or {}, files.root.name
    known = profiles.known_profiles().items()
    # The node's name is its profile's by default, and several profiles can fit: one's own may extend a built-in one.
    for name, path in sorted(known, key=lambda each: (each[0] != node, each[1].parent == BUILTIN)):
        with suppress(NodeError):
            fixed = identity(resolve(profiles.read(path), [], {}).config)
            if all(fixed[key] == made.get(key) for key in ("model", "adapter", "tasks", "seed")):
                return shlex.join(["swarmctl", "run", "--node", node, "--profile", name])
    return "swarmctl profiles list"


def write_last(files: NodeFiles, resolved: Resolved) -> None:
    """Save this run as the node's last. A command that starts over does so once: its repetition would not."""
    overrides = {dotted(given.path): given.value for given in resolved.overrides if given.path not in (NAME, FRESH)}
    config = resolved.config.model_dump(mode="json")
    config["node"]["fresh"] = always_starts_over(resolved)
    record = {"schema": FORMAT, "profile": resolved.profile.reference, "overrides": overrides, "config": config}
    write_json(files.config, record | {"origins": _origins(files, resolved)})


def _origins(files: NodeFiles, resolved: Resolved) -> dict[str, str]:
    """Return the origin of each setting that is not a default. A repeated setting keeps the origin it first had."""
    before = (read_json(files.config) or {}).get("origins")
    first = before if isinstance(before, dict) else {}
    return {
        key: str(first.get(key, origin)) if origin == REMEMBERED else origin for key, origin in resolved.origins.items()
    }


def always_starts_over(resolved: Resolved) -> bool:
    """Whether each run of the node starts over, not only the one of this command."""
    return resolved.config.node.fresh and not resolved.origins.get(dotted(FRESH), "").startswith("--")


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return a line for each setting that differs, such as ``train.learning_rate 1e-6 → 2e-6``.

    A setting that ``old`` lacks is newer than it, and counts as its default.
    """
    before = {dotted(path): value for path, value in (*flatten(Config().model_dump(mode="json")), *flatten(old))}
    after = {dotted(path): value for path, value in flatten(new)}
    gone = [
        f"{key} {shown_value(before[key])} → no longer a setting: {retired.reason}"
        for key, retired in ((dotted(path), retired) for path, retired in RETIRED.items())
        if before.get(key, retired.default) != retired.default
    ]
    return gone + [
        f"{key} {_shown(key, before.get(key))} → {_shown(key, value)}"
        for key, value in after.items()
        if key not in _FIXED and before.get(key) != value
    ]


def _shown(key: str, value: Any) -> str:
    return str(value) if is_revision(key, value) else shown_value(value)


def shown_value(value: Any) -> str:
    """Return a value for display; one that looks like a key is hidden."""
    value = without_keys(value)
    if value is None:
        return "unset"
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-").replace("e+0", "e+")
    if isinstance(value, list):
        return ", ".join(foreign(_title(item) if isinstance(item, dict) else item) for item in value) or "none"
    return str(value).lower() if isinstance(value, bool) else foreign(value)


def _title(task: Mapping[str, Any]) -> str:
    """Return a task's name; of the operator's own file, the file's name."""
    return Path(task["path"]).name if task.get("path") else str(task["name"])


def rerun(
    resolved: Resolved,
    node: str | None = None,
    *,
    changes: Mapping[SettingPath, Any] = MappingProxyType({}),
    without: Collection[SettingPath] = (),
) -> str:
    """Return the command that repeats this run: as another node, with other values, or without some of them.

    For the same node, it contains what was typed, in the same form: the rest follows from the same profile, or from the
    node's last run. A node that joins a swarm and has no name yet gets the same one again, so it is not named.
    """
    kept = [each for each in resolved.overrides if each.path not in {NAME, *changes, *without}]
    arguments = ["swarmctl", "run"]
    if node is None:
        kept = [each for each in kept if each.origin.startswith("--") or each.path == JOIN]
    if node is not None or resolved.names_profile:
        arguments += ["--profile", resolved.profile.reference]
    origin = resolved.origins.get(dotted(NAME))
    joins = any(each.path == JOIN for each in kept)
    if node is not None or origin == "--node" or (joins and origin != FROM_PROFILE):
        arguments += ["--node", node or resolved.config.node.name]
    for each in kept:
        arguments += _as_typed(each, kept)
    for path, value in changes.items():
        arguments += _assignment(path, value)
    return shlex.join(arguments)  # ``swarmctl.terminal.command_line.typed`` fills in the launcher


def settings_arguments(resolved: Resolved) -> list[str]:
    """Return the same configuration as arguments of ``doctor``, which has no flags for single settings."""
    arguments = ["--profile", resolved.profile.reference, "--node", resolved.config.node.name]
    for each in resolved.overrides:
        # ``--offload NAME`` unsets the model, which is only needed where the profile may set one.
        needless = each.path == _MODEL and not each.value and resolved.profile.builtin
        arguments += [] if each.path == NAME or needless else _assignment(each.path, each.value)
    return arguments


def models_arguments(resolved: Resolved, provider: str) -> list[str]:
    """Return what ``models`` needs to know one of your own providers: its profile and settings. Empty for others."""
    if provider not in resolved.config.providers:
        return []
    arguments = ["--profile", resolved.profile.reference]
    for each in resolved.overrides:
        arguments += _assignment(each.path, each.value) if each.path[:2] == ("providers", provider) else []
    return arguments


def _as_typed(typed: Override, others: Sequence[Override]) -> list[str]:
    """Return a typed value as its flag, or as an assignment if no flag can express it."""
    if typed.path == JOIN:
        return ["--join", typed.value] if typed.value else []
    if typed.origin == "--fresh":
        return ["--fresh"]
    if typed.origin == OFFLOAD and typed.path != _PROVIDER:
        return []  # part of the flag that names the provider
    if typed.origin == SERVE and FLAGS[SERVE] != dotted(typed.path):
        return []  # part of the flag that names the program
    if FLAGS.get(typed.origin) == dotted(typed.path) and isinstance(typed.value, str | int | float):
        text = typed.value if isinstance(typed.value, str) else inline(typed.value)
        if typed.path == _PROVIDER:
            beside = {each.path: each.value for each in others if each.origin == OFFLOAD}
            target, model = beside.get(("providers", text, "base_url"), text), beside.get(_MODEL)
            text = f"{target}:{model}" if model else target
        return [typed.origin, text]
    return _assignment(typed.path, typed.value)


def _assignment(path: SettingPath, value: Any) -> list[str]:
    """Return ``--set KEY=VALUE`` as it is read: strings as they are, anything else as TOML on one line."""
    return ["--set", f"{dotted(path)}={value if isinstance(value, str) else inline(value)}"]


def flag_for(word: str) -> str | None:
    """Return the option that a bare word stands for.

    ``--node WORD`` if a node has this name, otherwise ``--profile WORD`` if a profile has it, otherwise None.
    """
    if word in lookup.node_names():
        return shlex.join(["--node", word])
    return shlex.join(["--profile", word]) if word in profiles.known_profiles() else None


def set_values(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tables without unset values, which TOML cannot express."""
    return [{key: value for key, value in table.items() if value is not None} for table in tables]


def inline(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are the same in JSON and TOML

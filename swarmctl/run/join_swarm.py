"""How a node gets into a swarm: where its charter is found, and what that fixes, whatever profile and flags say."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hivemind_exp import atomic_write
from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import ConfigurationError, SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.charter import LONGEST, Charter
from hivemind_exp.swarm.charter_check import applied, check_skew
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation, parse
from hivemind_exp.tasks.mixture import Mixture, TaskFacts
from hivemind_exp.tasks.registry import expand
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.paths import nodes_directory
from swarmctl.run import trainer_process as trainer
from swarmctl.run.outcome import retry_hint
from swarmctl.settings.command_line import JOIN, read_last, rerun, set_values, shown_value
from swarmctl.settings.resolve import Resolved
from swarmctl.settings.schema import SettingPath, dotted, flatten
from swarmctl.settings.sources import REMEMBERED, Override
from swarmctl.storage.json_file import read_json, write_json

_SEED = ("node", "seed")
_FRESH = ("node", "fresh")
_TASKS = ("tasks",)
_BY_NODE = "this node's own"


@dataclass(frozen=True, slots=True)
class CharterMembership:
    """The swarm that a node is in, or is about to enter."""

    charter: Charter
    envelope: bytes
    """The charter as it travels, signed."""
    identity: Identity | None = None
    """Who the node is, or will be; None before it has a key."""


def pins(config: Config) -> tuple[list[TaskFacts], dict[str, str]]:
    """Return what a charter pins of each task: its facts, and the digest of 64 questions by label.

    The questions are made by the very workers that a run uses, in less than a second, unless a fixed set must be
    downloaded. Raises TaskError.
    """
    with contextlib.closing(Mixture(config.tasks, charter=b"", secret=b"", heldout=0, verifiers=1)) as mixture:
        facts = mixture.facts()
        return facts, {fact.label: mixture.digest(fact.label) for fact in facts}


def join(
    resolved: Resolved, say: Callable[[str], None], *, module: str = trainer.MODULE
) -> tuple[Resolved, CharterMembership | None]:
    """Return the configuration as the swarm's charter has it, and that charter; nothing changes for a lone node.

    Touches nothing. Raises NodeConflict where the node is running, or in another swarm; SwarmError where the charter
    cannot be had; ConfigurationError where the command line contradicts it.
    """
    files = lookup.files_of(resolved.config.node.name)
    resolved = _stays_in(resolved, files)
    swarm = resolved.config.swarm.charter
    if swarm is None:
        return resolved, None
    nodes.check_free(files, partial(rerun, resolved))
    nodes.check_swarm(files, resolved.config, partial(rerun, resolved))
    resolved = as_member(resolved, files)
    identity = Identity.load(files.key) if files.key.exists() else None
    envelope = next(_at_hand(files, swarm), None)
    if envelope is None:
        identity = identity or Identity.generate()
        envelope = _fetched(resolved, identity, say, module)
    charter = Charter.open(envelope, swarm)
    resolved = apply_charter(resolved, charter)
    if _content(files) != envelope:  # later runs leave that to the trainer
        with retry_hint(resolved):
            check_skew(charter, *pins(resolved.config))
    return resolved, CharterMembership(charter, envelope, identity)


def store_membership(files: NodeFiles, membership: CharterMembership) -> CharterMembership:
    """Keep the charter in the directory of a node, and give it a key where it has none yet.

    Raises OSError; IdentityProblem where it has one that cannot be used.
    """
    made = read_json(files.identity) or {}
    aside = lookup.left_directory(files, membership.charter.id) / files.swarm.name
    if made.get("left") is not None:
        if aside.exists() and not files.swarm.exists():
            os.replace(aside, files.swarm)
        write_json(files.identity, {**made, "left": None})
    if _content(files) != membership.envelope:
        atomic_write.write(files.charter, membership.envelope)
    if not files.key.exists():
        (membership.identity or Identity.generate()).save(files.key)
    return replace(membership, identity=Identity.load(files.key))


def _stays_in(resolved: Resolved, files: NodeFiles) -> Resolved:
    """A node stays in its swarm, with whatever profile it goes on."""
    if not files.charter.exists() or dotted(JOIN) in resolved.origins:
        return resolved
    last = read_last(files)
    line = (last.config.get("swarm") or {}).get("join") if last else None
    swarm = (read_json(files.identity) or {}).get("swarm")
    if not line and swarm:
        line = str(Invitation(swarm))
    return invited(resolved, line) if line else resolved


def invited(resolved: Resolved, line: str) -> Resolved:
    """Return the configuration of a node that joins with ``line``, as if that had been typed."""
    return replace(_changed(resolved, JOIN, line), overrides=(*resolved.overrides, Override(JOIN, line, _BY_NODE)))


def _at_hand(files: NodeFiles, swarm: str) -> Iterator[bytes]:
    """Yield the swarm's charter as nodes of this machine have it, this node first."""
    others = (NodeFiles(path.parent) for path in sorted(nodes_directory().glob("[!.]*/charter")))
    for each in (files, *others):
        content = _content(each)
        if content is None:
            continue
        with contextlib.suppress(SwarmError):  # of another swarm, or damaged
            Charter.open(content, swarm)
            yield content


def _content(files: NodeFiles) -> bytes | None:
    with contextlib.suppress(OSError), files.charter.open("rb") as file:
        return file.read(2 * LONGEST)
    return None


def _fetched(resolved: Resolved, identity: Identity, say: Callable[[str], None], module: str) -> bytes:
    config = resolved.config
    swarm = lookup.short_id(config.swarm.charter or "")
    if not parse(config.swarm.join).addresses:
        raise SwarmError(
            f"the charter of swarm {swarm} is not on this machine, and this invitation has no address to ask: take the "
            "whole line that `swarmctl swarm invite` prints where the swarm is",
            next="swarmctl run --help",
        )
    say(f"Asking swarm {swarm} for its charter; this may take half a minute.")
    try:
        # The daemon reads the key from a file; the node's own is not there before the charter has been seen.
        with tempfile.TemporaryDirectory(prefix="swarmctl-") as directory:
            key = Path(directory) / "identity.key"
            identity.save(key)
            return trainer.fetch_charter(config, key, Path(directory), module)
    except SwarmError as error:
        error.message += "; a node of it must be running where the invitation leads"
        error.next = rerun(resolved)
        raise


def as_member(resolved: Resolved, files: NodeFiles) -> Resolved:
    """Return the configuration of a node of a swarm: it never starts over, and has a seed of its own, or keeps its own.

    Peers know a node and would see it forget; two that are alike in all would say the same. Raises ConfigurationError
    where the command line has it start over; a profile may.
    """
    if resolved.config.node.fresh:
        if _explicit(resolved, _FRESH):
            raise ConfigurationError(
                "a node of a swarm keeps what it learned, and node.fresh = true makes it start over at every run",
                next=rerun(resolved, without={_FRESH}),
            )
        resolved = _changed(resolved, _FRESH, False)
    if _explicit(resolved, _SEED) or resolved.origins.get(dotted(_SEED)) == REMEMBERED:
        return resolved
    made = read_json(files.identity) or {}
    known = made.get("seed") if made.get("swarm") and not made.get("fresh") else None
    return _changed(resolved, _SEED, known if isinstance(known, int) else secrets.randbelow(2**31))


def apply_charter(resolved: Resolved, charter: Charter) -> Resolved:
    """Return the configuration with what the charter fixes, above profile and flags.

    Raises:
        ConfigurationError: the command line says something else.
        SwarmSkew: a task of the charter cannot be played here.
    """
    before = resolved.config
    with retry_hint(resolved):
        after = _valid(applied(charter, before).model_dump())
    old, new = (dict(flatten(config.model_dump(mode="json"))) for config in (before, after))
    fixed = {path: value for path, value in new.items() if old.get(path) != value}
    if same_tasks(before.tasks, after.tasks):
        fixed.pop(_TASKS, None)
    files_only = _names_files_only(before, after)
    refused = [path for path in fixed if _explicit(resolved, path) and not (path == _TASKS and files_only)]
    if refused:
        origins = [resolved.origins[dotted(path)] for path in refused]
        said = " and ".join(
            f"{dotted(path)} {shown_value(fixed[path])}, not what {origin} says"
            for path, origin in zip(refused, origins, strict=True)
        )
        variable = next((origin for origin in origins if origin.startswith("$")), None)
        raise ConfigurationError(
            f"the charter of swarm {charter.name} fixes {said}",
            next=f"unset {variable[1:]}" if variable else rerun(resolved, without=refused),
        )
    label = f"charter of {charter.name}"
    values = [override for override in resolved.overrides if override.path not in fixed]
    if any(task.path for task in after.tasks):  # where the files are is this node's business
        values = [override for override in values if override.path != _TASKS]
        values.append(Override(_TASKS, set_values(new[_TASKS]), _BY_NODE))
    named = dict.fromkeys(("tasks", "game.kind", "game.group_size"), label)
    return replace(resolved, config=after, origins={**resolved.origins, **named}, overrides=tuple(values))


def same_tasks(one: Sequence[TaskConfig], other: Sequence[TaskConfig]) -> bool:
    """Whether two mixtures ask the same questions in the same shares, presets taken apart, wherever files are."""
    first, second = expand(one), expand(other)
    total, other_total = sum(weight for _, weight in first), sum(weight for _, weight in second)
    return [replace(spec, path=None) for spec, _ in first] == [replace(spec, path=None) for spec, _ in second] and all(
        abs(weight / total - other_weight / other_total) < 2e-6
        for (_, weight), (_, other_weight) in zip(first, second, strict=True)
    )


def _names_files_only(before: Config, after: Config) -> bool:
    """Whether the tasks only say where this machine has files of the swarm's fixed sets."""
    played = {spec.label for spec, _ in expand(after.tasks)}
    return all(spec.path is not None and spec.label in played for spec, _ in expand(before.tasks))


def _changed(resolved: Resolved, path: tuple[str, str], value: Any) -> Resolved:
    """Return the configuration with a value that nobody typed, and that no command for another node repeats."""
    section, key = path
    table = resolved.config.model_dump()
    table[section][key] = value
    return replace(resolved, config=_valid(table), origins={**resolved.origins, dotted(path): _BY_NODE})


def _valid(values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        messages = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise ConfigurationError(f"in this swarm, {messages}", next="swarmctl profiles list") from error


def _explicit(resolved: Resolved, path: SettingPath) -> bool:
    """Whether a value was typed for this command, or stands in its environment."""
    return resolved.origins.get(dotted(path), "").startswith(("--", "$"))

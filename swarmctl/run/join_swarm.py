"""How a node joins a swarm: find the charter and apply the settings it fixes, which override profile and flags."""

import contextlib
import itertools
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hivemind_exp import atomic_write
from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import ConfigurationError, FileProblem, SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.charter import LONGEST, Charter
from hivemind_exp.swarm.charter_check import applied, check_skew, levels_of
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation, parse
from hivemind_exp.tasks.charter_params import fit_levels
from hivemind_exp.tasks.mixture import Mixture, TaskFacts
from hivemind_exp.tasks.registry import expand
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.paths import nodes_directory, shown
from swarmctl.run import trainer_process as trainer
from swarmctl.run.outcome import retry_hint
from swarmctl.settings.command_line import FRESH, JOIN, read_last, rerun, set_values, shown_value
from swarmctl.settings.problems import explain
from swarmctl.settings.resolve import Resolved
from swarmctl.settings.schema import SettingPath, dotted, flatten
from swarmctl.settings.sources import FROM_PROFILE, NAME, REMEMBERED, Override
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.terminal.waiting import waiting

_SEED = ("node", "seed")
_TASKS = ("tasks",)
_BY_NODE = "this node's own"


@dataclass(frozen=True, slots=True)
class CharterMembership:
    """The swarm that a node is in or about to join."""

    charter: Charter
    envelope: bytes
    """The signed charter, as it is sent."""
    identity: Identity | None = None
    """The node's identity, or its future one; None before it has a key."""


def pins(
    config: Config, levels: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> tuple[list[TaskFacts], dict[str, str]]:
    """Return what a charter pins for each task: its facts, and by label the digest of 64 questions.

    ``levels``: those that the charter lists. A process like that of a run creates the questions, in less than a
    second unless a fixed set must be downloaded. Raises TaskError.
    """
    with _mixture(config, levels=levels) as mixture:
        facts = mixture.facts()
        return facts, {fact.label: mixture.digest(fact.label) for fact in facts}


def new_levels(config: Config) -> dict[str, Sequence[Mapping[str, Any]]] | None:
    """Return the levels of difficulty that a new charter lists, by task; None without a curriculum.

    Raises TaskError.
    """
    if not config.game.curriculum:
        return None
    names = {spec.label: spec.name for spec, _ in expand(config.tasks)}
    with _mixture(config, curriculum=True) as mixture:
        return {fact.label: fit_levels(names[fact.label], fact.levels) for fact in mixture.facts()}


def _mixture(config: Config, **more: Any) -> contextlib.closing[Mixture]:
    return contextlib.closing(Mixture(config.tasks, charter=b"", secret=b"", heldout=0, verifiers=0, **more))


def join(
    resolved: Resolved, say: Callable[[str], None], *, module: str = trainer.MODULE
) -> tuple[Resolved, CharterMembership | None]:
    """Return the configuration with the swarm's charter applied, and that charter; without a swarm, nothing changes.

    A node that no one named gets the swarm's name, unless the node with its profile's name is already in the swarm. If
    that node is running, the first free name after it is used.
    Writes nothing. Raises NodeConflict if the node is running or in another swarm, SwarmError if the charter cannot be
    found, ConfigurationError if the command line contradicts the charter.
    """
    files = lookup.files_of(resolved.config.node.name)
    resolved = _stays_in(resolved, files)
    swarm = resolved.config.swarm.charter
    if swarm is None:
        return resolved, None
    unnamed = resolved.origins.get(dotted(NAME)) == FROM_PROFILE
    identity = envelope = None
    if unnamed and (read_json(files.identity) or {}).get("swarm") != swarm:
        envelope = next(_at_hand(files, swarm), None)
        if envelope is None:
            identity = Identity.generate()
            envelope = _fetched(resolved, identity, say, module)
        resolved = _changed(resolved, NAME, Charter.open(envelope, swarm).name)
        files = lookup.files_of(resolved.config.node.name)
    if unnamed and locks.is_held(files.lock):
        free = _free_name(files.root.name, swarm)
        say(f"Node {files.root.name} of this swarm is already running here, so this run uses another node, {free}.")
        resolved = _changed(resolved, NAME, free)
        files = lookup.files_of(free)
    nodes.check_free(files, partial(rerun, resolved))
    nodes.check_swarm(files, resolved.config, partial(rerun, resolved))
    resolved = as_member(resolved, files)
    if files.key.exists():
        identity = Identity.load(files.key)
    envelope = envelope or next(_at_hand(files, swarm), None)
    if envelope is None:
        _check_own(files, resolved)
        identity = identity or Identity.generate()
        envelope = _fetched(resolved, identity, say, module)
    charter = Charter.open(envelope, swarm)
    resolved = apply_charter(resolved, charter)
    if _content(files) != envelope:  # in later runs the trainer does this
        with retry_hint(resolved):
            check_skew(charter, *pins(resolved.config, levels_of(charter)))
    return resolved, CharterMembership(charter, envelope, identity)


def store_membership(files: NodeFiles, membership: CharterMembership) -> CharterMembership:
    """Save the charter in the node's directory, and create a key if the node has none yet.

    Raises OSError, or IdentityProblem if the existing key cannot be used.
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
    """Keep a node in its swarm, whichever profile it resumes with."""
    if not files.charter.exists() or dotted(JOIN) in resolved.origins:
        return resolved
    last = None
    with contextlib.suppress(FileProblem):  # the command names the profile; the swarm is in the node's identity
        last = read_last(files)
    line = (last.config.get("swarm") or {}).get("join") if last else None
    swarm = (read_json(files.identity) or {}).get("swarm")
    if not line and swarm:
        line = str(Invitation(swarm))
    return invited(resolved, line) if line else resolved


def invited(resolved: Resolved, line: str) -> Resolved:
    """Return the configuration of a node that joins with ``line``, as if ``line`` had been typed."""
    return replace(_changed(resolved, JOIN, line), overrides=(*resolved.overrides, Override(JOIN, line, _BY_NODE)))


def _free_name(name: str, swarm: str) -> str:
    """Return the first of NAME-2, NAME-3, … that no node has, or a node of the swarm that is not running."""
    for number in itertools.count(2):
        files = lookup.files_of(f"{name}-{number}")
        ours = (read_json(files.identity) or {}).get("swarm") == swarm and not locks.is_held(files.lock)
        if ours or not files.root.exists():
            break
    return files.root.name


def _at_hand(files: NodeFiles, swarm: str) -> Iterator[bytes]:
    """Yield the swarm's charter from the nodes on this machine, this node first."""
    others = (NodeFiles(path.parent) for path in sorted(nodes_directory().glob("[!.]*/charter")))
    for each in (files, *others):
        content = _content(each)
        if content is None:
            continue
        with contextlib.suppress(SwarmError):  # another swarm's, or damaged
            Charter.open(content, swarm)
            yield content


def _content(files: NodeFiles) -> bytes | None:
    with contextlib.suppress(OSError), files.charter.open("rb") as file:
        return file.read(2 * LONGEST)
    return None


def _check_own(files: NodeFiles, resolved: Resolved) -> None:
    """Raise FileProblem if the node's own charter cannot be used and there is no address to fetch it from."""
    content, invitation = _content(files), parse(resolved.config.swarm.join)
    if content is None or invitation.addresses:
        return
    try:
        Charter.open(content, invitation.charter)
    except SwarmError as error:
        raise FileProblem(
            f"cannot use {shown(files.charter)}: {error.message}. To fetch it again, join with the whole line that "
            "`swarmctl swarm invite` prints on a machine in the swarm",
            next=shlex.join(["swarmctl", "swarm", "join", "INVITATION", "--node", files.root.name]),
        ) from error


def _fetched(resolved: Resolved, identity: Identity, say: Callable[[str], None], module: str) -> bytes:
    config = resolved.config
    swarm = lookup.short_id(config.swarm.charter or "")
    if not parse(config.swarm.join).addresses:
        raise SwarmError(
            f"the charter of swarm {swarm} is not on this machine, and this invitation has no address to fetch it "
            "from. Use the whole line that `swarmctl swarm invite` prints on a machine in the swarm",
            next="swarmctl run --help",
        )
    say(f"Fetching the charter of swarm {swarm}. This may take half a minute.")
    try:
        # The daemon reads the key from a file, and the node's own key file is not created before the charter is known.
        with tempfile.TemporaryDirectory(prefix="swarmctl-") as directory:
            key = Path(directory) / "identity.key"
            identity.save(key)
            with waiting(say, "fetching the charter"):
                return trainer.fetch_charter(config, key, Path(directory), say, module)
    except SwarmError as error:
        error.message += (
            "; one of its nodes must be running at the invitation's address. On that node's machine, `swarmctl swarm "
            "invite` says whether it is running; from here, check the connection and then repeat the command"
        )
        error.next = _connect(parse(config.swarm.join).addresses[0]) or rerun(resolved)
        raise


def _connect(address: str) -> str | None:
    """Return the command that tries to connect to a peer's address; None if this machine has no such command."""
    _, _, host, _, port, *_ = address.split("/")
    return shlex.join(["nc", "-vz", host, port]) if shutil.which("nc") else None


def as_member(resolved: Resolved, files: NodeFiles) -> Resolved:
    """Return the configuration for a swarm's node: it never starts over, and keeps its own seed or gets a random one.

    It must not start over because its peers know how far it has trained. Two nodes with equal settings and seeds would
    generate the same completions. Raises ConfigurationError if the command line sets node.fresh; in a profile, it is
    ignored.
    """
    if resolved.config.node.fresh:
        if _explicit(resolved, FRESH):
            why = "a node cannot start over in a swarm, because its peers know how far it has trained"
            if files.charter.exists():
                invite = shlex.join(["swarmctl", "swarm", "invite", resolved.config.node.name])
                raise ConfigurationError(f"{why}; create a new node with this one's invitation", next=invite)
            raise ConfigurationError(f"{why}; a new node needs no --fresh", next=rerun(resolved, without={FRESH}))
        resolved = _changed(resolved, FRESH, False)
    if _explicit(resolved, _SEED) or resolved.origins.get(dotted(_SEED)) == REMEMBERED:
        return resolved
    made = read_json(files.identity) or {}
    known = made.get("seed") if made.get("swarm") and not made.get("fresh") else None
    return _changed(resolved, _SEED, known if isinstance(known, int) else secrets.randbelow(2**31))


def apply_charter(resolved: Resolved, charter: Charter) -> Resolved:
    """Return the configuration with the settings that the charter fixes, which override profile and flags.

    Raises:
        ConfigurationError: the command line contradicts the charter.
        SwarmSkew: a task of the charter is not available here.
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
            f"{dotted(path)} = {shown_value(fixed[path])}, but {origin} sets another value"
            for path, origin in zip(refused, origins, strict=True)
        )
        variable = next((origin for origin in origins if origin.startswith("$")), None)
        raise ConfigurationError(
            f"the charter of swarm {charter.name} requires {said}",
            next=f"unset {variable[1:]}" if variable else rerun(resolved, without=refused),
        )
    label = f"charter of {charter.name}"
    values = [override for override in resolved.overrides if override.path not in fixed]
    if any(task.path for task in after.tasks):  # the paths of files are specific to this machine
        values = [override for override in values if override.path != _TASKS]
        values.append(Override(_TASKS, set_values(new[_TASKS]), _BY_NODE))
    named = dict.fromkeys(("tasks", "game.kind", "game.group_size"), label)
    return replace(resolved, config=after, origins={**resolved.origins, **named}, overrides=tuple(values))


def same_tasks(one: Sequence[TaskConfig], other: Sequence[TaskConfig]) -> bool:
    """Whether two mixtures have the same questions in the same shares, with presets expanded and paths ignored."""
    first, second = expand(one), expand(other)
    total, other_total = sum(weight for _, weight in first), sum(weight for _, weight in second)
    return [replace(spec, path=None) for spec, _ in first] == [replace(spec, path=None) for spec, _ in second] and all(
        abs(weight / total - other_weight / other_total) < 2e-6
        for (_, weight), (_, other_weight) in zip(first, second, strict=True)
    )


def _names_files_only(before: Config, after: Config) -> bool:
    """Whether the tasks only set the paths of files for the swarm's fixed sets of questions."""
    played = {spec.label for spec, _ in expand(after.tasks)}
    return all(spec.path is not None and spec.label in played for spec, _ in expand(before.tasks))


def _changed(resolved: Resolved, path: SettingPath, value: Any) -> Resolved:
    """Return the configuration with a value that no one typed. Commands for other nodes do not repeat it."""
    section, key = path[0], path[1]
    table = resolved.config.model_dump()
    table[section][key] = value
    return replace(resolved, config=_valid(table), origins={**resolved.origins, dotted(path): _BY_NODE})


def _valid(values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = dict.fromkeys(explain(detail, (), "").message for detail in error.errors())
        raise ConfigurationError(
            f"invalid settings in this swarm: {'; '.join(problems)}", next="swarmctl profiles list"
        ) from error


def _explicit(resolved: Resolved, path: SettingPath) -> bool:
    """Whether a value was typed in this command or is set in its environment."""
    return resolved.origins.get(dotted(path), "").startswith(("--", "$"))

"""Read a node's charter, and check that this machine generates its questions. Suggests a fix if it does not."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import ConfigurationError, SwarmError, SwarmSkew, TaskError
from hivemind_exp.game_settings import GameConfig
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.charter import MILLION, Charter, CharterTask
from hivemind_exp.tasks.charter_params import unfit_param
from hivemind_exp.tasks.registry import expand, is_own_code

if TYPE_CHECKING:
    from hivemind_exp.tasks.mixture import TaskFacts

_RELEASE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_UPDATE = "swarmctl --version"
_FILE = "swarmctl run --task FILE.jsonl"


def read_charter(files: NodeFiles, expected: str) -> Charter | None:
    """Return the charter in the node's directory, or None if it is missing.

    Raises ``SwarmError`` if it cannot be read or is another charter.
    """
    try:
        envelope = files.charter.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SwarmError(f"cannot read the charter {files.charter}: {error.strerror}") from error
    return Charter.open(envelope, expected)


def charter_levels(config: Config, files: NodeFiles) -> dict[str, Sequence[Mapping[str, Any]]] | None:
    """Return the levels of difficulty that the charter of the node's swarm lists, by task.

    None if the node is in no swarm, its charter is missing, or it allows no curriculum. Raises as ``read_charter``.
    """
    charter = None if config.swarm.charter is None else read_charter(files, config.swarm.charter)
    return None if charter is None else levels_of(charter)


def levels_of(charter: Charter) -> dict[str, Sequence[Mapping[str, Any]]] | None:
    """Return the levels of difficulty that a charter lists, by task; None if it allows no curriculum."""
    return {task.label: task.levels for task in charter.tasks} if charter.curriculum else None


def pinned(
    tasks: Sequence[TaskConfig], facts: Sequence[TaskFacts], digests: Mapping[str, str]
) -> tuple[CharterTask, ...]:
    """Return the tasks of a new charter for a mixture.

    Args:
        tasks: the mixture's tasks, including presets.
        facts: ``Mixture.facts`` for it. If the charter allows a curriculum, with the levels that it lists.
        digests: ``Mixture.digest`` by label.

    Raises:
        TaskError: a task has a parameter that a charter cannot set.
    """
    expanded = expand(tasks)
    for spec, _ in expanded:
        if is_own_code(spec.name):
            raise TaskError(
                f"a swarm cannot have the task {spec.label}, because every node would have to run its code. Train on "
                "it alone, or use a file of questions",
                next=f"swarmctl run --task {shlex.quote(spec.path or spec.name)}",
            )
        if unfit := unfit_param(spec.name, spec.params):
            raise TaskError(
                f"a swarm's task {spec.name} cannot set {unfit[0]}: {unfit[1]}. Other nodes would refuse to join",
                next="swarmctl swarm new --help",
            )
    shares = _millionths([weight for _, weight in expanded])
    return tuple(
        CharterTask(
            label=spec.label,
            name=spec.name,
            params=dict(spec.params),
            check=spec.check,
            weight_ppm=share,
            version=fact.version,
            digest=digests[spec.label],
            size=fact.size,
            sha256=fact.sha256,
            levels=tuple(fact.levels),
        )
        for (spec, _), share, fact in zip(expanded, shares, facts, strict=True)
    )


def applied(charter: Charter, config: Config) -> Config:
    """Return ``config`` with the charter's tasks and game. The paths of question files come from ``config``.

    Raises SwarmSkew if this version of swarmctl cannot play the charter's tasks or game, or if ``config`` names no file
    for a task that needs one, SwarmError if the charter sets a parameter that charters cannot set, and
    ConfigurationError if ``config`` has a curriculum that the charter does not allow.
    """
    if config.game.curriculum and not charter.curriculum:
        raise ConfigurationError(
            f"the charter of swarm {charter.name} fixes the tasks' parameters and shares, so game.curriculum cannot be "
            "used in it",
            next="swarmctl run --set game.curriculum=false",
        )
    paths = {spec.label: spec.path for spec, _ in expand(config.tasks) if spec.path is not None}
    tasks = [
        TaskConfig(
            name=task.name,
            weight=task.weight_ppm / MILLION,
            path=paths.get(task.label),
            check=task.check,
            params=dict(task.params),
        )
        for task in charter.tasks
    ]
    for task in charter.tasks:
        if is_own_code(task.name):
            raise SwarmError(
                "the swarm's charter names a task in your own Python code or packages, which a charter may not do",
                next="swarmctl swarm new --help",
            )
        if task.name == "jsonl" and task.label not in paths:
            raise SwarmSkew(
                f"each node needs the file of {task.size} questions for the swarm's task {task.label}: get it from the "
                "person who invited you",
                next=_FILE,
            )
    try:
        labels = [spec.label for spec, _ in expand(tasks)]
    except TaskError as error:
        message = f"the swarm has a task that this version of swarmctl does not know: {error.message}"
        raise SwarmSkew(message, next=_UPDATE) from error
    if labels != [task.label for task in charter.tasks]:
        raise SwarmSkew("this version of swarmctl interprets the swarm's tasks differently", next=_UPDATE)
    for task in charter.tasks:
        for params in (task.params, *task.levels):
            if unfit := unfit_param(task.name, params):
                raise SwarmError(
                    f"the swarm's charter sets {unfit[0]} of its task {task.name}: {unfit[1]}",
                    next="swarmctl swarm new --help",
                )
    rules = {"kind": charter.game, "group_size": charter.group_size}
    try:
        game = GameConfig.model_validate(config.game.model_dump() | rules)
    except ValidationError as error:
        message = f"this version of swarmctl cannot play the swarm's game, {charter.game}"
        raise SwarmSkew(message, next=_UPDATE) from error
    return config.model_copy(update={"tasks": tasks, "game": game})


def check_skew(charter: Charter, facts: Sequence[TaskFacts], digests: Mapping[str, str]) -> None:
    """Compare this machine's questions with those pinned by the charter.

    Args:
        charter: the charter of the swarm to join.
        facts: ``Mixture.facts`` for the charter's tasks on this machine.
        digests: ``Mixture.digest`` by label.

    Raises:
        SwarmSkew: for the first task that differs, with a fix.
    """
    here = {fact.label: fact for fact in facts}
    for task in charter.tasks:
        fact = here.get(task.label)
        if fact is None:
            raise SwarmSkew(f"this node does not have the swarm's task {task.label}", next=_UPDATE)
        if (fact.size, fact.sha256) != (task.size, task.sha256):
            raise SwarmSkew(
                f"task {task.label} has other data on this machine ({_data(fact.size, fact.sha256)}) than in the swarm "
                f"({_data(task.size, task.sha256)})",
                next=_FILE if task.name == "jsonl" else _UPDATE,
            )
        if fact.version != task.version:
            raise SwarmSkew(
                f"task {task.label} comes from {fact.version or 'this version of swarmctl'} on this machine, but from "
                f"{task.version or 'another version of swarmctl'} in the swarm, so the questions may differ",
                next=_install(fact.version, task.version),
            )
        if digests.get(task.label) != task.digest:
            alike = f"both use {fact.version}" if fact.version else "its version and data match"
            raise SwarmSkew(
                f"task {task.label} has other questions on this machine than in the swarm, although {alike}; something "
                "else that the questions depend on differs",
                next=_install(fact.version, task.version, again=True),
            )


def _millionths(weights: Sequence[float]) -> list[int]:
    """Return the weights in parts per million of their sum: at least 1 each, exactly one million in total."""
    total = sum(weights)
    shares = [max(1, round(weight / total * MILLION)) for weight in weights]
    largest = shares.index(max(shares))
    shares[largest] += MILLION - sum(shares)
    return shares


def _data(size: int | None, sha256: str | None) -> str:
    return "not a fixed set" if sha256 is None else f"{size} questions, SHA-256 {sha256[:12]}…"


def _install(here: str, there: str, *, again: bool = False) -> str:
    """Return the command that installs the swarm's version of the library that this machine uses.

    It never installs another library: a charter comes from strangers, and a library name in it is not trusted.
    """
    library = here.partition(" ")[0]
    name, _, version = there.partition(" ")
    if not library or name != library or _RELEASE.fullmatch(version) is None:
        return _UPDATE
    force = "--force-reinstall --no-deps " if again else ""
    return f"{shlex.quote(sys.executable)} -m pip install {force}{shlex.quote(f'{name}=={version}')}"

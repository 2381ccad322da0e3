"""Whether this machine makes the questions that its swarm agreed on, and what to do where it does not."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hivemind_exp.config import Config, GameConfig, TaskConfig
from hivemind_exp.errors import SwarmSkew, TaskError
from hivemind_exp.swarm.charter import MILLION, Charter, CharterTask
from hivemind_exp.tasks.registry import expand

if TYPE_CHECKING:
    from hivemind_exp.tasks.mixture import TaskFacts

_RELEASE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_UPDATE = "swarmctl swarm show"


def pinned(
    tasks: Sequence[TaskConfig], facts: Sequence[TaskFacts], digests: Mapping[str, str]
) -> tuple[CharterTask, ...]:
    """Return what a new charter says of a mixture's tasks.

    Args:
        tasks: the mixture, presets and all.
        facts: what ``Mixture.facts`` says of it.
        digests: ``Mixture.digest`` by label.
    """
    expanded = expand(tasks)
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
        )
        for (spec, _), share, fact in zip(expanded, shares, facts, strict=True)
    )


def applied(charter: Charter, config: Config) -> Config:
    """Return ``config`` with the tasks and the game that its swarm agreed on. Files of fixed sets stay where they are.

    Raises SwarmSkew where this version of swarmctl lacks one of the tasks, or a file is not named.
    """
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
        if task.name == "jsonl" and task.label not in paths:
            raise SwarmSkew(
                f"the swarm's task {task.label} is a file of {task.size} questions that each node needs: get it from "
                "whoever invited you",
                next="swarmctl run --task FILE.jsonl",
            )
    try:
        labels = [spec.label for spec, _ in expand(tasks)]
    except TaskError as error:
        raise SwarmSkew(f"the swarm plays a task that is unknown here: {error.message}", next=_UPDATE) from error
    if labels != [task.label for task in charter.tasks]:
        raise SwarmSkew("the swarm plays tasks that this version of swarmctl takes otherwise", next=_UPDATE)
    rules = {"kind": charter.game, "group_size": charter.group_size}
    try:
        game = GameConfig.model_validate(config.game.model_dump() | rules)
    except ValidationError as error:
        raise SwarmSkew(f"the swarm plays {charter.game}, which this version cannot", next=_UPDATE) from error
    return config.model_copy(update={"tasks": tasks, "game": game})


def check_skew(charter: Charter, facts: Sequence[TaskFacts], digests: Mapping[str, str]) -> None:
    """Compare what this machine makes with what the charter pins.

    Args:
        charter: of the swarm to join.
        facts: what ``Mixture.facts`` says of the charter's tasks here.
        digests: ``Mixture.digest`` by label.

    Raises:
        SwarmSkew: for the first task that differs, naming the cure.
    """
    here = {fact.label: fact for fact in facts}
    for task in charter.tasks:
        fact = here.get(task.label)
        if fact is None:
            raise SwarmSkew(f"the swarm plays {task.label}, which is no task of this node", next=_UPDATE)
        if (fact.size, fact.sha256) != (task.size, task.sha256):
            raise SwarmSkew(
                f"the data of task {task.label} are not those of the swarm: {_data(fact.size, fact.sha256)} here, "
                f"{_data(task.size, task.sha256)} there",
                next=_UPDATE,
            )
        if fact.version != task.version:
            raise SwarmSkew(
                f"task {task.label} is made by {fact.version or 'this version of swarmctl'} here and by "
                f"{task.version or 'another version of swarmctl'} in the swarm: the questions may differ",
                next=_install(fact.version, task.version),
            )
        if digests.get(task.label) != task.digest:
            raise SwarmSkew(
                f"task {task.label} has other questions here than in the swarm, with the same "
                f"{fact.version or 'version'}: something it is made with differs",
                next=_install(fact.version, task.version, again=True),
            )


def _millionths(weights: Sequence[float]) -> list[int]:
    """Return the weights in parts per million of their sum: at least 1 each, and together exactly a million."""
    total = sum(weights)
    shares = [max(1, round(weight / total * MILLION)) for weight in weights]
    largest = shares.index(max(shares))
    shares[largest] += MILLION - sum(shares)
    return shares


def _data(size: int | None, sha256: str | None) -> str:
    return "no fixed set" if sha256 is None else f"{size} questions, SHA-256 {sha256[:12]}…"


def _install(here: str, there: str, *, again: bool = False) -> str:
    """Return the command that gets the swarm's version of the library used here.

    Never of another library: a charter comes from strangers, and its names must not be installed.
    """
    library = here.partition(" ")[0]
    name, _, version = there.partition(" ")
    if not library or name != library or _RELEASE.fullmatch(version) is None:
        return _UPDATE
    force = "--force-reinstall --no-deps " if again else ""
    return f"{shlex.quote(sys.executable)} -m pip install {force}{shlex.quote(f'{name}=={version}')}"

"""Environments of Prime Intellect's ``verifiers``, as ``env:PACKAGE``.

The environment's rows are a fixed set of questions, and its weighted reward functions are the terms of the reward. With
one turn, they get the completion's answer in the form that they read (``environment_answers``), so that every prompt
style works. With several turns, the environment holds a conversation with the model (``conversations``).

The workers of such a task run with the interpreter of the environment's own installation
(``hivemind_exp.tasks.environments``). An environment is loaded before the sandbox closes, because it may load its data
from the hub. It scores in the sandbox.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.environments import LIBRARY, Installation, described, versions_in
from hivemind_exp.tasks.families import environment_trials
from hivemind_exp.tasks.families.own_code import OwnCodeTask

NEED_HUB = ("make", "verify")
ADAPTERS = {
    "0.1.": "hivemind_exp.tasks.families.environment_v0",
    "0.4.": "hivemind_exp.tasks.families.environment_v1",
}
"""How each supported version begins, and the module that adapts it. Each has ``loaded``, which returns a module with
``questions``, and ``score`` or ``begin_conversation``."""
MOST_TURNS = 10
"""The most turns of the model in a conversation, unless set."""


def check(spec: TaskSpec) -> None:
    """Raise ``TaskError`` for a path. ``conversing`` checks the rest."""
    if spec.path is not None:
        raise TaskError(f"task {spec.name!r} accepts params, but no path", next=f"swarmctl run --task {spec.name}")


def conversing(specs: Sequence[TaskSpec]) -> list[str]:
    """Load the environments in workers and score their first answers. Raises ``TaskError`` if one is not supported.

    Importing ``verifiers`` takes seconds, so one worker loads all environments of one package, and one that was tried
    out before is not loaded. One that is not installed is not checked: ``run`` and ``tasks`` install it first. Return
    the tasks whose questions are conversations.
    """
    installed = [spec for spec in specs if Installation.of(spec.name).versions]
    known = [environment_trials.converses(spec) for spec in installed]
    untried = [place for place, found in enumerate(known) if found is None]
    facts_of_untried = _tried([installed[place] for place in untried])
    for place, facts in zip(untried, facts_of_untried, strict=True):
        known[place] = bool(facts["turns"])
        environment_trials.keep(installed[place], converses=bool(facts["turns"]))
    return [spec.label for spec, talks in zip(installed, known, strict=True) if talks]


def _tried(specs: Sequence[TaskSpec]) -> list[dict[str, Any]]:
    """Return the facts of the processes that generate the tasks' questions: they also score the first answers."""
    from hivemind_exp.tasks.workers.pool import Pool

    with contextlib.closing(Pool(specs, verifiers=0)) as pool:
        return pool.facts()


def interpreter(spec: TaskSpec) -> str:
    """Return the Python that runs the task's workers. Raises ``TaskError`` if the environment is not installed."""
    found = Installation.of(spec.name)
    if not found.versions:
        raise TaskError(f"environment {found.package} is not on this machine", next=f"swarmctl tasks show {spec.name}")
    return str(found.python)


def build(spec: TaskSpec) -> OwnCodeTask:
    """Return the task, in a worker. The environment is not loaded before ``prepare``."""
    about = replace(spec, params={})  # they are the environment's
    versions = described(versions_in(Path(sys.prefix)))
    code = importlib.util.find_spec(Installation.of(spec.name).module)
    file = Path(code.origin) if code is not None and code.origin is not None else None
    return OwnCodeTask(about, lambda: _loaded(spec), file, versions, may_converse=True)


def _loaded(spec: TaskSpec) -> ModuleType:
    """Return a module with ``questions`` and ``score``, as ``own_code`` expects it. Raises ``TaskError``."""
    found = Installation.of(spec.name, os.environ)
    library = importlib.metadata.version(LIBRARY)
    for begin, adapter in ADAPTERS.items():
        if library.startswith(begin):
            return _adapted(adapter, found, spec)
    supported = " and ".join(begin.rstrip(".") for begin in ADAPTERS)
    raise TaskError(
        f"environment {found.package} uses {LIBRARY} {library}; only {supported} are supported",
        next="swarmctl tasks list",
    )


def _adapted(adapter: str, found: Installation, spec: TaskSpec) -> ModuleType:
    try:
        adapt = importlib.import_module(adapter).loaded
        module: ModuleType = adapt(found.package, found.module, spec.params, spec.max_turns or MOST_TURNS)
    except ModuleNotFoundError as error:
        if error.name != found.module:
            raise
        raise TaskError(
            f"package {found.package} contains no module {found.module}, so it is no environment",
            next="swarmctl tasks list",
        ) from error
    return module

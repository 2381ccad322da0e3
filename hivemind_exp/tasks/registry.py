"""Names of tasks. To add one, follow "Add a task with a verifier" in ARCHITECTURE.md.

That is a module in ``families``, a line in ``FAMILIES``, and a description in ``descriptions``. The module defines
``check(spec)``, which imports nothing heavy and raises ``TaskError`` for wrong options, and ``build(spec)``, which
returns a ``base.Task``. With ``NEED_HUB = ("make",)``, the process that generates its questions may access the Hugging
Face hub if no path is given. A generator of reasoning-gym instead moves from ``REFUSED`` to ``GENERATORS`` in
``families.reasoning_gym_catalogue``, and gets a description, too.

Imports nothing heavy, because the command line uses this module to check names.
"""

import difflib
import importlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from hivemind_exp.config import ENVIRONMENT, OFF, OWN_FILE, Config, TaskConfig
from hivemind_exp.errors import ConfigurationError, TaskError
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS, REFUSED
from hivemind_exp.tasks.installed import installed_tasks

FAMILIES: dict[str, str] = {
    "gsm8k": "hivemind_exp.tasks.families.gsm8k",
    "jsonl": "hivemind_exp.tasks.families.jsonl",
    OWN_FILE: "hivemind_exp.tasks.families.python_file",
    **dict.fromkeys(GENERATORS, "hivemind_exp.tasks.families.reasoning_gym"),
}
"""Module of each built-in task. Tests add entries."""
QUESTION_SETS = ("gsm8k", "jsonl", OWN_FILE)
"""The built-in tasks whose questions are in files. All others generate theirs."""
_SUGGESTED = 3
_SIMILAR, _SIMILAR_WORD = 0.6, 0.75
"""The least similarity (``difflib``) of a task that is suggested for an unknown name, or of a word of its name."""
_PACKAGED = "hivemind_exp.tasks.families.packaged"
_ENVIRONMENTS = "hivemind_exp.tasks.families.environment"

WARMUP_TASK = "spell_backward"
"""The only task that the warm-up of the tiny model supports."""

PRESETS: Mapping[str, Sequence[str]] = {
    "sapo": (
        "arc_1d",
        "basic_arithmetic",
        "base_conversion",
        "bf",
        "binary_matrix",
        "calendar_arithmetic",
        "decimal_arithmetic",
        "fraction_simplification",
        "propositional_logic",
    ),
}
"""Named mixtures of tasks in equal shares. ``sapo``: arXiv 2509.08721, section 4."""


def expand(configs: Sequence[TaskConfig]) -> list[tuple[TaskSpec, float]]:
    """Return the tasks of a mixture with their weights. Presets are expanded.

    Raises:
        TaskError: a name is unknown or refused, a preset has parameters, or a task without turns has ``max_turns``.
    """
    seen: Counter[str] = Counter()
    expanded = []
    for config in chain.from_iterable(map(_take_apart, configs)):
        path = None if config.path is None else str(Path(config.path).expanduser().resolve())
        label = title(config)
        seen[label] += 1
        spec = TaskSpec(
            label=label if seen[label] == 1 else f"{label}-{seen[label]}",
            module=_family(config.name),
            name=config.name,
            path=path,
            check=config.check,
            params=config.params,
            max_turns=config.max_turns,
        )
        expanded.append((spec, config.weight))
    return expanded


def title(task: TaskConfig) -> str:
    """Return the name to show for a task; for one in a Python file, the file's name."""
    return Path(task.path).name if task.path and task.name == OWN_FILE else task.name


def check_tasks(configs: Sequence[TaskConfig], tell: Callable[[str], object] = str) -> list[str]:
    """Check names, options, parameters and the lines of a file. A user's code is tried in workers.

    Return the tasks whose questions are conversations. ``tell`` is called with a line for each file of which a part is
    not used.

    Raises:
        TaskError: states the cause and the fix.
    """
    specs = [spec for spec, _ in expand(configs)]
    for spec in specs:
        for line in importlib.import_module(spec.module).check(spec) or ():
            tell(line)
    environments = [spec for spec in specs if spec.module == _ENVIRONMENTS]
    return importlib.import_module(_ENVIRONMENTS).conversing(environments) if environments else []


def check_conversations(config: Config, tasks: Sequence[str]) -> None:
    """Raise ``ConfigurationError`` for settings that ``tasks``, which are conversations, cannot be used with."""
    if not tasks:
        return
    for setting, is_set, off in (
        ("offload.provider", config.offload.provider != OFF, OFF),
        ("judge.provider", config.judge.provider != OFF, OFF),
        ("game.kind", config.game.kind != "sampling", "sampling"),
        ("game.format_reward", config.game.format_reward > 0, "0"),
        ("warm_start.steps", config.warm_start.steps > 0, "0"),
    ):
        if is_set:
            raise ConfigurationError(
                f"{setting} cannot be used with the task {tasks[0]}: only this node's own model can have the task's "
                "conversations, which it learns from token by token",
                next=f"swarmctl run --set {setting}={off}",
            )


def check_warmup(config: Config) -> None:
    """Raise ``ConfigurationError`` if the warm-up is on for other tasks than the one it supports."""
    others = [task.path or task.name for task in config.tasks if task.name != WARMUP_TASK]
    if config.warmup.steps and others:
        tasks = " ".join(f"--task {shlex.quote(task.path or task.name)}" for task in config.tasks)
        raise ConfigurationError(
            f"the tiny model supports only the task {WARMUP_TASK}, not {', '.join(others)}; train a real model instead "
            "(1 GB download)",
            next=f"swarmctl run --profile cpu {tasks}",
        )


def names() -> list[str]:
    """Return every built-in name that ``tasks`` accepts, sorted."""
    return sorted({*FAMILIES, *PRESETS})


def _family(name: str) -> str:
    if name.startswith(ENVIRONMENT):
        return _ENVIRONMENTS
    return FAMILIES.get(name, _PACKAGED)


def is_own_code(name: str) -> bool:
    """Whether a task's code is not part of this package. No charter can name it: strangers choose a charter's tasks."""
    return name == OWN_FILE or name.startswith(ENVIRONMENT) or (name not in FAMILIES and name in installed_tasks())


def _similar(name: str, known: Sequence[str]) -> list[str]:
    """Return up to three tasks whose name, or a word of it, is similar to ``name``, the most similar first.

    For a known name that is not allowed, the most similar tasks, even if they are not very similar.
    """

    def similarity(text: str) -> float:
        return difflib.SequenceMatcher(None, name, text).ratio()

    def best(task: str) -> float:
        return max(similarity(task), *map(similarity, task.split("_")))

    def is_similar(task: str) -> bool:
        return similarity(task) >= _SIMILAR or best(task) >= _SIMILAR_WORD

    ranked = sorted(known, key=best, reverse=True)[:_SUGGESTED]
    return [task for task in ranked if name in REFUSED or is_similar(task)]


def _take_apart(config: TaskConfig) -> Iterator[TaskConfig]:
    if config.max_turns is not None and not config.name.startswith(ENVIRONMENT):
        raise TaskError(
            f"task {title(config)!r} has no turns, so it accepts no max_turns; only environments (env:PACKAGE) do",
            next="swarmctl tasks list",
        )
    if config.name not in PRESETS:
        if config.name.startswith(ENVIRONMENT):
            yield config
            return
        if config.name not in FAMILIES and config.name not in (packaged := installed_tasks()):
            near = _similar(config.name.lower(), [*names(), *packaged])
            *others, last = near or [""]
            guess = f"{', '.join(others)} or {last}" if others else last
            why = f"unknown task {config.name!r}" + (f"; did you mean {guess}?" if near else "")
            if config.name in REFUSED:
                why = f"task {config.name!r} cannot be used: {REFUSED[config.name]}"
            elif Path(config.name).exists():
                why = f"unknown task {config.name!r}; to use the file or directory of that name, write ./{config.name}"
                near = [shlex.quote(f"./{config.name}")]
            raise TaskError(why, next=f"swarmctl run --task {near[0]}" if near else "swarmctl tasks list")
        yield config
        return
    if config.params or config.path:
        raise TaskError(
            f"task {config.name!r} is a preset and accepts neither params nor path; list its tasks one by one instead",
            next=f"swarmctl run --task {','.join(PRESETS[config.name])}",
        )
    members = PRESETS[config.name]
    for member in members:
        yield TaskConfig(name=member, weight=config.weight / len(members))

"""Questions from the reasoning-gym generators on an allowlist, one generator object per item."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import json
import shlex
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hivemind_exp.errors import TaskError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import Task, TaskSpec
from hivemind_exp.tasks.families.difficulty import levels
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS, LIBRARY

Verifier = Callable[[str, Mapping[str, Any]], float]

_OWN = -1
"""Stands for the task's own parameters in place of a level."""
_TRIED = 3
"""Questions made to try a level."""
_PLOTTING = (
    *("matplotlib", "matplotlib.pyplot", "matplotlib.animation", "matplotlib.collections"),
    *("mpl_toolkits", "mpl_toolkits.mplot3d"),
)
"""Modules that cellpylib plots with. Generators never plot, and matplotlib needs a directory that it may write to."""
_OURS = ("seed", "size")
"""Parameters that the node sets."""


def check(spec: TaskSpec) -> None:
    """Raise ``TaskError`` for a parameter that the generator lacks. Reads the library's source without importing it."""
    allowed = list(default_params(spec.name)) if spec.params else []
    for name in spec.params:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it accepts {', '.join(allowed) or 'none'}"
            raise TaskError(
                f"task {spec.name!r} has no parameter {foreign(name)}; {hint}", next=f"swarmctl run --task {spec.name}"
            )


def build(spec: TaskSpec) -> GeneratedTask:
    """Return the task. The library is not imported before ``prepare("make")``."""
    return GeneratedTask(spec)


def verifier(check: str) -> Verifier:
    """Return the verifier that the catalogue names as ``MODULE.FUNCTION``."""
    module, _, function = check.partition(".")
    found: Verifier = getattr(importlib.import_module(f"hivemind_exp.tasks.verifiers.{module}"), function)
    return found


class GeneratedTask(Task):
    """One generator with parameters. Verifier processes never load the library."""

    def __init__(self, spec: TaskSpec) -> None:
        self.name = spec.name
        self._params = dict(spec.params)
        self._curriculum, self._given = spec.curriculum, spec.levels
        self._generator = GENERATORS[spec.name]
        self._verify: Verifier | None = None
        self._factory: Any = None
        self._shared: dict[int, Any] = {}
        """The object that generates all items, by level, if there is only one."""

    def prepare(self, role: Role) -> None:
        if role == "verify":
            self._verify = verifier(self._generator.check)
            return
        import importlib.metadata  # only here: its imports take as long as all others of a verifier

        self.version = f"{LIBRARY} {importlib.metadata.version(LIBRARY)}"
        _import_alone(f"reasoning_gym.{self._generator.module}")
        factory = importlib.import_module("reasoning_gym.factory")
        self._factory = factory.create_dataset
        try:
            own = self._dataset(0, _OWN)
            self.make(0)  # forces lazy loading now, before the sandbox closes
        except Exception as error:
            raise TaskError(
                f"task {self.name!r} has invalid parameters: {foreign(str(error) or type(error).__name__)}",
                next=f"swarmctl run --task {self.name}",
            ) from error
        if self._given is not None:
            self.levels = self._given
            if not all(map(self._is_usable, range(len(self.levels)))):
                raise TaskError(
                    f"the generator of task {self.name!r} rejects a level of difficulty in the swarm's charter",
                    next="swarmctl --version",
                )
        elif self._curriculum and factory.has_curriculum(self.name):
            self.levels = levels(factory.create_curriculum(self.name), own.config)
            self.levels = [params for number, params in enumerate(self.levels) if self._is_usable(number)]
            self._shared.clear()  # the numbers of the levels may have changed

    def make(self, seed: int) -> tuple[str, dict[str, Any]]:
        return self.make_at(seed, _OWN)

    def make_at(self, seed: int, level: int) -> tuple[str, dict[str, Any]]:
        if self._generator.shared:
            if level not in self._shared:
                self._shared[level] = self._dataset(0, level)
            dataset = self._shared[level]
            dataset.seed = seed
        else:
            dataset = self._dataset(seed, level)
        item = dataset[0]
        answer = item["answer"]
        entry: dict[str, Any] = {"answer": None if answer is None else str(answer)}
        for path in self._generator.keep:
            entry[path.rpartition(".")[2]] = _plain(_at(item["metadata"], path))
        return item["question"], entry

    def score(self, answer: str, entry: Mapping[str, Any]) -> float:
        assert self._verify is not None, "prepare('verify') comes first"
        return self._verify(answer, entry)

    def key(self, text: str, entry: Mapping[str, Any]) -> str:
        if self.name == "spell_backward":
            word = str(entry["answer"]).lower()
            return "spell_backward " + " ".join(sorted((word, word[::-1])))
        return super().key(text, entry)

    def _dataset(self, seed: int, level: int) -> Any:
        easier = {} if level == _OWN else self.levels[level]
        return self._factory(self.name, **{**self._params, **easier, "seed": seed, "size": 1})

    def _is_usable(self, level: int) -> bool:
        """Return whether the generator accepts a level's parameters. Combinations can contradict each other."""
        try:
            for seed in range(_TRIED):
                self.make_at(seed, level)
        except Exception:  # noqa: BLE001 - generators may raise anything
            return False
        return True


def _at(table: Any, path: str) -> Any:
    for part in path.split("."):
        table = table[part]
    return table


def _plain(value: Any) -> Any:
    """Return ``value`` as plain JSON data: converts enumerations, tuples and NumPy numbers."""
    return json.loads(json.dumps(value, default=lambda odd: odd.item()))


def _import_alone(module: str) -> None:
    """Import one module of the library without its siblings: 0.1 s and 20 MiB instead of 3 s and 110 MiB.

    The packages' ``__init__`` modules import every generator. Empty packages in their place let the import system find
    only the module needed.
    """
    parts = module.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(_library().joinpath(*parts[1:depth]))]
            sys.modules[name] = package
    importlib.import_module("reasoning_gym.coaching")  # first: it and the factory import each other
    empty = {name: types.ModuleType(name) for name in _PLOTTING if name not in sys.modules}
    for name, stand_in in empty.items():
        stand_in.__dict__["__getattr__"] = lambda _: None  # for ``from NAME import ...``
        sys.modules[name] = stand_in
    try:
        importlib.import_module(module)
    finally:
        for name in empty:
            del sys.modules[name]


def _library() -> Path:
    if "reasoning_gym" in sys.modules:
        return Path(sys.modules["reasoning_gym"].__path__[0])
    found = importlib.util.find_spec("reasoning_gym")
    if found is None or not found.submodule_search_locations:
        raise TaskError(f"{LIBRARY} is not installed", next=f"{shlex.quote(sys.executable)} -m pip install {LIBRARY}")
    return Path(found.submodule_search_locations[0])


@functools.cache
def default_params(name: str) -> Mapping[str, ast.expr | None]:
    """Return a generator's parameters and their defaults, read from its configuration class's source."""
    source = _library().joinpath(*GENERATORS[name].module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    config = next(node for node in classes if node.name.endswith("Config"))
    fields = [node for node in config.body if isinstance(node, ast.AnnAssign)]
    return {
        field.target.id: field.value
        for field in fields
        if isinstance(field.target, ast.Name) and field.target.id not in _OURS
    }

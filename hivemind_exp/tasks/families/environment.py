"""Single-turn environments of Prime Intellect's ``verifiers`` (0.1), as ``env:PACKAGE``.

The environment's rows are a fixed set of questions, and its weighted reward functions are the terms of the reward. They
get the completion's answer in the form that the environment's parser reads, so that every prompt style works.

An environment is loaded before the sandbox closes, because it may load its data from the hub. It scores in the sandbox.
"""

import importlib
import importlib.metadata
import inspect
import json
import shlex
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from hivemind_exp.config import ENVIRONMENT
from hivemind_exp.errors import TaskError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.base import TaskSpec, Verdict
from hivemind_exp.tasks.families.own_code import OwnCodeTask, try_out
from hivemind_exp.tasks.installed import origin

NEED_HUB = ("make", "verify")
LIBRARY = "verifiers"
SUPPORTED = "0.1"
_FORMS = ("{}", "\\boxed{{{}}}", "<answer>\n{}\n</answer>", "<think>\n\n</think>\n{}")
"""Completions that contain just an answer, for the parsers of the library."""


def check(spec: TaskSpec) -> None:
    """Load the environment in workers and score its first answers. Raises ``TaskError`` if it is not supported."""
    if spec.path is not None:
        raise TaskError(f"task {spec.name!r} accepts params, but no path", next=f"swarmctl run --task {spec.name}")
    try_out(spec)


def build(spec: TaskSpec) -> OwnCodeTask:
    """Return the task. The environment is not loaded before ``prepare``."""
    package = spec.name.removeprefix(ENVIRONMENT)
    about = replace(spec, params={})  # they are the environment's
    return OwnCodeTask(about, lambda: _loaded(package, spec.params), None, origin(spec.name))


def _loaded(package: str, params: Mapping[str, Any]) -> ModuleType:
    """Return a module with ``questions`` and ``score``, as ``own_code`` expects it. Raises ``TaskError``."""
    library = _library()
    name = package.replace("-", "_")
    try:
        code = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise TaskError(
            f"environment {package!r} is not installed", next=f"{shlex.quote(sys.executable)} -m pip install {package}"
        ) from error
    environment = code.load_environment(**params)
    if not isinstance(environment, library.SingleTurnEnv):
        raise TaskError(
            f"environment {package!r} is a {type(environment).__name__}, which takes several turns or uses tools. Only "
            "single-turn environments are supported",
            next="swarmctl tasks list",
        )
    scorer = _Scorer(package, environment)
    rows = [_question(package, row) for row in environment.get_dataset()]
    adapted = ModuleType(f"swarmctl_environment_{name}")
    adapted.__file__ = code.__file__
    vars(adapted).update(questions=lambda _seed: rows, score=scorer.score)
    return adapted


def _library() -> Any:
    wanted = f"{shlex.quote(sys.executable)} -m pip install 'verifiers==0.1.10'"
    try:
        found = importlib.metadata.version(LIBRARY)
    except importlib.metadata.PackageNotFoundError as error:
        raise TaskError(f"environments need the package {LIBRARY}, which is not installed", next=wanted) from error
    if not found.startswith(f"{SUPPORTED}."):
        raise TaskError(f"{LIBRARY} {found} is not supported; environments need version {SUPPORTED}", next=wanted)
    return importlib.import_module(LIBRARY)


def _question(package: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of an environment as a question. Its instructions are part of the text."""
    turns = row["prompt"]
    turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else list(turns)
    roles = [turn["role"] for turn in turns]
    if roles not in (["user"], ["system", "user"]) or not all(isinstance(turn["content"], str) for turn in turns):
        raise TaskError(
            f"a prompt of environment {package!r} is a conversation ({foreign(', '.join(roles))}). Only one question "
            "with a system prompt is supported",
            next="swarmctl tasks list",
        )
    info = row.get("info") or {}
    return {
        "question": "\n\n".join(turn["content"] for turn in turns),
        "answer": row.get("answer", ""),
        "info": json.loads(info) if isinstance(info, str) else info,
        "task": row.get("task", package),
        "prompt": turns,
    }


class _Scorer:
    """The reward functions of one environment."""

    def __init__(self, package: str, environment: Any) -> None:
        self._package = package
        self._parser = environment.parser
        rubric = environment.rubric
        self._objects = dict(getattr(rubric, "class_objects", {})) | {"parser": self._parser}
        weighted = zip(rubric._get_reward_funcs(), rubric._get_reward_weights(), strict=True)
        self._terms = [(function, weight) for function, weight in weighted if weight]
        if not any(weight > 0 for _, weight in self._terms):
            raise self._unsupported("has no reward function with a positive weight")

    def score(self, answer: str, question: Mapping[str, Any]) -> Verdict:
        """Return the environment's reward. Its credit is the share of the best reward."""
        said = [{"role": "assistant", "content": self._written(answer)}]
        state = {"completion": said, "trajectory": [], "timing": {}, **question}
        given = {**self._objects, **{key: question.get(key) for key in ("prompt", "answer", "info", "task")}}
        given |= {"completion": said, "state": state}
        terms = [(function.__name__, weight * self._call(function, given)) for function, weight in self._terms]
        best = sum(weight for _, weight in self._terms if weight > 0)
        return Verdict(min(max(sum(value for _, value in terms) / best, 0.0), 1.0), tuple(terms))

    def _written(self, answer: str) -> str:
        """Return a completion in which the environment's parser finds the answer."""
        for form in _FORMS:
            text = form.format(answer)
            found = self._parser.parse_answer([{"role": "assistant", "content": text}])
            if isinstance(found, str) and found.strip() == answer.strip():
                return text
        return answer

    def _call(self, function: Any, given: Mapping[str, Any]) -> float:
        taken = inspect.signature(function).parameters
        if not taken.keys().isdisjoint(("completions", "states", "prompts", "answers", "infos", "tasks")):
            raise self._unsupported(f"compares completions with each other in {function.__name__}")
        everything = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        found = function(**{name: value for name, value in given.items() if everything or name in taken})
        return float(self._finished(function, found) if inspect.iscoroutine(found) else found)

    def _finished(self, function: Any, running: Coroutine[Any, Any, Any]) -> Any:
        """Return a coroutine's result. One that waits would need a network or another process."""
        try:
            running.send(None)
        except StopIteration as done:
            return done.value
        except RuntimeError as error:
            if "event loop" not in str(error):
                raise
        running.close()
        raise self._unsupported(f"waits for something in {function.__name__}, such as a model that judges")

    def _unsupported(self, what: str) -> TaskError:
        return TaskError(f"environment {self._package!r} {what}, which is not supported", next="swarmctl tasks list")

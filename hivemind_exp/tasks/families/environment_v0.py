"""Environments of ``verifiers`` 0.1: a module with ``load_environment``, whose rubric has the reward functions."""

import importlib
import inspect
import json
from collections.abc import Mapping
from itertools import islice
from types import ModuleType
from typing import Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.base import Verdict
from hivemind_exp.tasks.families import environment_v0_turns
from hivemind_exp.tasks.families.environment_answers import (
    FORMS,
    EnvironmentLoop,
    check_terms,
    choose_form,
    unsupported,
    written,
)
from hivemind_exp.tasks.families.own_code import MOST_QUESTIONS
from hivemind_exp.tasks.families.question_files import reference_text

_OF_GROUPS = ("completions", "states", "prompts", "answers", "infos", "tasks")
"""Arguments of reward functions that get all completions of a question at once."""


def loaded(package: str, module: str, params: Mapping[str, Any], most_turns: int) -> ModuleType:
    """Return a module with ``questions``, and ``score`` or ``begin_conversation``.

    Raises ``TaskError`` if the environment is not supported.
    """
    library: Any = importlib.import_module("verifiers")
    code = importlib.import_module(module)
    if not hasattr(code, "load_environment"):
        raise unsupported(package, "has no function load_environment")
    environment = code.load_environment(**params)
    if not isinstance(environment, library.SingleTurnEnv):
        if not isinstance(environment, library.MultiTurnEnv):
            raise unsupported(package, f"is a {type(environment).__name__}, which has a loop of its own")
        several = environment_v0_turns.adapted(package, environment, most_turns)
        several.__file__ = code.__file__
        return several
    scorer = _Scorer(package, environment)
    rows = [_question(package, row) for row in islice(environment.get_dataset(), MOST_QUESTIONS + 1)]
    choose_form(package, rows, scorer.score)
    adapted = ModuleType(f"swarmctl_environment_{module}")
    adapted.__file__ = code.__file__
    vars(adapted).update(questions=lambda _seed: rows, score=scorer.score)
    return adapted


def _question(package: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of an environment as a question. Its instructions are part of the text."""
    turns = row["prompt"]
    turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else list(turns)
    roles = [turn["role"] for turn in turns]
    if roles not in (["user"], ["system", "user"]) or not all(isinstance(turn["content"], str) for turn in turns):
        raise unsupported(package, f"has a conversation as a prompt ({foreign(', '.join(roles))})")
    info = row.get("info") or {}
    return {
        "question": "\n\n".join(turn["content"] for turn in turns),
        "answer": reference_text(row.get("answer")),
        "truth": row.get("answer", ""),
        "info": json.loads(info) if isinstance(info, str) else info,
        "task": row.get("task", package),
        "prompt": [{"role": turn["role"], "content": turn["content"]} for turn in turns],
    }


class _Scorer:
    """The reward functions of one environment."""

    def __init__(self, package: str, environment: Any) -> None:
        self._package = package
        self._parser = environment.parser
        self._loop = EnvironmentLoop(package)
        rubric = environment.rubric
        self._objects = dict(getattr(rubric, "class_objects", {})) | {"parser": self._parser}
        weighted = zip(rubric._get_reward_funcs(), rubric._get_reward_weights(), strict=True)
        self._terms = [(function, weight) for function, weight in weighted if weight]
        check_terms(package, len(self._terms))
        if not any(weight > 0 for _, weight in self._terms):
            raise unsupported(package, "has no reward function with a positive weight")

    def score(self, answer: str, question: Mapping[str, Any]) -> Verdict:
        """Return the environment's reward. Its credit is the share of the best reward."""
        said = [{"role": "assistant", "content": self._written(question["form"], answer)}]
        row = {"answer": question["truth"], **{key: question[key] for key in ("prompt", "info", "task")}}
        state = {**row, "completion": said, "trajectory": [], "timing": {}}
        given = {**self._objects, **row, "completion": said, "state": state}
        terms = [(function.__name__, weight * self._call(function, given)) for function, weight in self._terms]
        best = sum(weight for _, weight in self._terms if weight > 0)
        return Verdict(min(max(sum(value for _, value in terms) / best, 0.0), 1.0), tuple(terms))

    def _written(self, form: str, answer: str) -> str:
        """Return a completion in which the environment's parser finds the answer; ``form`` if it finds it in none."""
        for each in dict.fromkeys((form, *FORMS)):
            text = written(each, answer)
            found = self._parser.parse_answer([{"role": "assistant", "content": text}])
            if isinstance(found, str) and found.strip() == answer.strip():
                return text
        return written(form, answer)

    def _call(self, function: Any, given: Mapping[str, Any]) -> float:
        taken = inspect.signature(function).parameters
        if not taken.keys().isdisjoint(_OF_GROUPS):
            raise unsupported(self._package, f"compares completions with each other in {function.__name__}")
        everything = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        found = function(**{name: value for name, value in given.items() if everything or name in taken})
        return float(self._loop.run(found, function.__name__) if inspect.iscoroutine(found) else found)

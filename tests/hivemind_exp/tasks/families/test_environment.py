"""Environments of the package ``verifiers``: what is used of it, and what is refused.

``STAND_IN`` has the parts of version 0.1 that are used. If the package is installed, the last test uses it.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families import environment
from hivemind_exp.tasks.families.own_code import OwnCodeTask
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.registry import check_tasks, expand, is_own_code

STAND_IN = """
class Parser:
    def __init__(self, extract=lambda text: text):
        self.extract = extract

    def parse_answer(self, completion):
        return self.extract(completion[-1]["content"])


class Rubric:
    def __init__(self, funcs, weights, parser):
        self.funcs, self.weights = funcs, weights
        self.class_objects = {"parser": parser}

    def _get_reward_funcs(self):
        return self.funcs

    def _get_reward_weights(self):
        return self.weights


class MultiTurnEnv:
    def __init__(self, rows, rubric, parser):
        self.rows, self.rubric, self.parser = rows, rubric, parser

    def get_dataset(self):
        return self.rows


class SingleTurnEnv(MultiTurnEnv):
    pass
"""
ENVIRONMENT = """
import asyncio
import verifiers as vf


def boxed(text):
    return text.partition("\\\\boxed{")[2].rpartition("}")[0]


async def right(completion, answer, parser, **kwargs):
    return float(parser.parse_answer(completion) == answer)


def short(completion, state, info):
    assert state["info"] == info == {"level": 1}
    return float(len(completion[-1]["content"]) < 12)


def unused():
    raise ValueError


async def waits(completion):
    await asyncio.sleep(1)


def compares(completions):
    return [1.0]


FUNCS = ("right", "short", "unused")


def load_environment(funcs=FUNCS, weights=(1.0, 0.5, 0.0), kind="SingleTurnEnv", turns=("system", "user")):
    parser = vf.Parser(boxed)
    rows = [
        {
            "prompt": [{"role": role, "content": f"{role} {n}"} for role in turns],
            "answer": str(n), "info": '{"level": 1}', "task": "default",
        }
        for n in range(20)
    ]
    rubric = vf.Rubric([globals()[name] for name in funcs], list(weights), parser)
    return getattr(vf, kind)(rows, rubric, parser)
"""
Load = Callable[..., OwnCodeTask]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the stand-in and an environment, for this process and its workers."""
    for name, text in (("verifiers", STAND_IN), ("word-boxes", ENVIRONMENT)):
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(text, encoding="utf-8")
        about = tmp_path / f"{name.replace('-', '_')}-0.1.10.dist-info"
        about.mkdir()
        about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.10\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield tmp_path
    for name in ("verifiers", "word_boxes"):
        sys.modules.pop(name, None)


def prepared(name: str = "env:word-boxes", **params: Any) -> OwnCodeTask:
    task = environment.build(TaskSpec(name, environment.__name__, name, params=params))
    task.prepare("make")
    return task


def test_a_name_with_env_is_an_environment() -> None:
    (task,) = Config(tasks="env:primeintellect/word-boxes").tasks
    ((spec, _),) = expand([task])
    assert (spec.name, spec.module) == ("env:primeintellect/word-boxes", environment.__name__)
    assert is_own_code(spec.name)


def test_rows_are_questions_and_reward_functions_are_terms(place: Path) -> None:
    task = prepared()
    assert (task.size, task.version) == (20, "word-boxes 0.1.10")
    text, entry = task.make(3)
    assert (text, entry["answer"]) == ("system 3\n\nuser 3", "3")
    right, wrong = task.score("3", entry), task.score("4", entry)
    assert (right.credit, right.terms) == (1.0, (("right", 1.0), ("short", 0.5)))
    assert wrong.credit == pytest.approx(1 / 3)
    assert task.score("a long text", entry).terms == (("right", 0.0), ("short", 0.0))


@pytest.mark.slow
def test_an_environment_is_scored_in_the_sandbox(place: Path) -> None:
    tasks = [TaskConfig(name="env:word-boxes")]
    check_tasks(tasks)
    with closing(Mixture(tasks, charter=b"", secret=b"s", heldout=2, verifiers=1)) as mixture:
        (question,) = mixture.questions("train", 0, 1)
        right, wrong = mixture.score([question] * 2, [f"<answer>{question.entry['answer']}</answer>", "\\boxed{x}"])
    assert [(each.correct, each.reward) for each in (right, wrong)] == [(True, 1.5), (False, 0.5)]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "MultiTurnEnv"}, "is a MultiTurnEnv, which takes several turns or uses tools"),
        ({"turns": ["user", "assistant", "user"]}, "is a conversation"),
        ({"funcs": ["waits"], "weights": [1.0]}, "waits for something in waits, such as a model that judges"),
        ({"funcs": ["compares"], "weights": [1.0]}, "compares completions with each other in compares"),
        ({"weights": [0.0, 0.0, 0.0]}, "has no reward function with a positive weight"),
        ({"level": 3}, "unexpected keyword argument 'level'"),
        ({"funcs": ["right", "unused"], "weights": [1.0, 1.0]}, "ValueError"),
    ],
)
def test_what_is_not_supported_is_named(place: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        prepared(**params)


def test_a_missing_package_is_named_with_its_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="'nowhere' is not installed") as caught:
        prepared("env:nowhere")
    assert caught.value.next is not None
    assert caught.value.next.endswith("-m pip install nowhere")
    with pytest.raises(TaskError, match="accepts params, but no path"):
        environment.check(TaskSpec("env:x", environment.__name__, "env:x", path="y"))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.4.0")
    with pytest.raises(TaskError, match=r"verifiers 0\.4\.0 is not supported"):
        prepared()
    (place / "verifiers-0.1.10.dist-info/METADATA").unlink()
    monkeypatch.undo()
    with pytest.raises(TaskError, match="need the package verifiers, which is not installed") as caught:
        prepared()
    assert "pip install 'verifiers==0.1.10'" in (caught.value.next or "")


REAL = """
import verifiers as vf
from datasets import Dataset

def load_environment():
    rows = [{"question": f"Reverse: a{n}b", "answer": f"b{str(n)[::-1]}a"} for n in range(20)]
    parser = vf.Parser(vf.extract_boxed_answer)

    async def right(completion, answer, parser):
        return float(parser.parse_answer(completion) == answer)

    rubric = vf.Rubric(funcs=[right], parser=parser)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), system_prompt="In a box.", parser=parser, rubric=rubric)
"""


@pytest.mark.slow
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("verifiers")
    (tmp_path / "reversing.py").write_text(REAL, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    task = prepared("env:reversing")
    text, entry = task.make(7)
    assert text == "In a box.\n\nReverse: a7b"
    assert [task.score(answer, entry).credit for answer in ("b7a", "a7b")] == [1.0, 0.0]

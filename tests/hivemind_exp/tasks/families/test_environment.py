"""Environments of the package ``verifiers``: names, forms of answers, and what of version 0.1 is refused.

The stand-in has the parts of version 0.1 that are used. ``tests/swarmctl/packages`` installs the real versions.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import TaskSpec, Verdict
from hivemind_exp.tasks.environments import Installation
from hivemind_exp.tasks.families import environment
from hivemind_exp.tasks.families.environment_answers import EnvironmentLoop, choose_form, written
from hivemind_exp.tasks.families.own_code import OwnCodeTask
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.registry import check_tasks, expand, is_own_code
from tests.support.stand_in_verifiers import STAND_IN

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
    await asyncio.sleep(3600)


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
    (task,) = Config(tasks="env:word-boxes@0.2").tasks
    ((spec, _),) = expand([task])
    assert (spec.name, spec.module) == ("env:word-boxes@0.2", environment.__name__)
    assert is_own_code(spec.name)


def test_rows_are_questions_and_reward_functions_are_terms(place: Path) -> None:
    task = prepared()
    assert (task.size, task.version) == (20, "")
    text, entry = task.make(3)
    assert (text, entry["answer"]) == ("system 3\n\nuser 3", "3")
    right, wrong = task.score("3", entry), task.score("4", entry)
    assert (right.credit, right.terms) == (1.0, (("right", 1.0), ("short", 0.5)))
    assert wrong.credit == pytest.approx(1 / 3)
    assert task.score("a long text", entry).terms == (("right", 0.0), ("short", 0.0))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "OtherEnv"}, "is a OtherEnv, which has a loop of its own"),
        ({"turns": ["user", "assistant", "user"]}, "has a conversation as a prompt"),
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


def test_another_version_of_the_library_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.3.1")
    with pytest.raises(TaskError, match=r"uses verifiers 0\.3\.1; only 0\.1 and 0\.4 are supported"):
        prepared()


def test_a_package_that_is_no_environment_is_named(place: Path) -> None:
    with pytest.raises(TaskError, match="package nowhere contains no module nowhere"):
        prepared("env:nowhere")
    with pytest.raises(TaskError, match="accepts params, but no path"):
        environment.check(TaskSpec("env:x", environment.__name__, "env:x", path="y"))


def test_one_that_is_not_installed_is_named_where_its_workers_would_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check_tasks([TaskConfig(name="env:word-boxes")])  # a valid profile, though it can only run once it is installed
    with pytest.raises(TaskError, match="environment word-boxes is not on this machine") as caught:
        Mixture([TaskConfig(name="env:word-boxes")], charter=b"", secret=b"", heldout=0)
    assert caught.value.next == "swarmctl tasks show env:word-boxes"


def test_code_without_a_file_is_called_by_its_tasks_name() -> None:
    def load() -> ModuleType:
        raise ImportError("no libgomp")

    with pytest.raises(TaskError, match=r"rhymes: cannot load the task: ImportError: .no libgomp.") as caught:
        OwnCodeTask(TaskSpec("rhymes", "m", "rhymes"), load, None).prepare("make")
    assert caught.value.next == "swarmctl tasks list"


@pytest.mark.parametrize(
    ("name", "package", "version", "module", "directory"),
    [
        ("env:word-boxes", "word-boxes", None, "word_boxes", "word-boxes"),
        ("env:Word.Boxes@1.2", "Word.Boxes", "1.2", "word_boxes", "word-boxes-1.2"),
        ("env:word_boxes==1.2rc1", "word_boxes", "1.2rc1", "word_boxes", "word-boxes-1.2rc1"),
    ],
)
def test_a_name_says_which_package_is_installed_where(
    name: str, package: str, version: str | None, module: str, directory: str
) -> None:
    found = Installation.of(name, {"XDG_CACHE_HOME": "/c"})
    assert (found.package, found.wanted, found.module) == (package, version, module)
    assert found.directory == Path("/c/swarmctl/environments", f"{directory}-{sys.implementation.cache_tag}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("env:owner/word-boxes", "names an owner, but the package index has none"),
        ("env:", "names no package"),
        ("env:--index-url", "names no package"),
        ("env:a;b", "names no package"),
        ("env:a[extra]", "names no package"),
    ],
)
def test_what_is_no_package_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Installation.of(name)


def test_the_form_of_an_answer_is_the_one_whose_references_are_correct(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "Use <reversed> tags.", "answer": "cba"} for _ in range(3)]

    def score(answer: str, row: dict[str, Any]) -> Verdict:
        text = written(row["form"], answer)
        if "boxed" in text:
            raise ValueError(text)
        return Verdict(float(text == "<reversed>cba</reversed>"))

    choose_form("x", rows, score)
    assert {row["form"] for row in rows} == {"<reversed>{}</reversed>"}
    assert written("<reversed>{}</reversed>", "<reversed>a</reversed>") == "<reversed>a</reversed>"
    assert written("\\boxed{{{}}}", "\\boxed{7}") == "\\boxed{7}"
    assert written("\\boxed{{{}}}", "7") == "\\boxed{7}"


def test_reference_answers_that_earn_less_are_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "?", "answer": "a"}, {"question": "?", "answer": None}]
    choose_form("x", rows, lambda *_: Verdict(0.5))
    assert [(row["form"], row["answer"]) for row in rows] == [("{}", None)] * 2
    assert "earn 50% of the reward" in capsys.readouterr().out
    with pytest.raises(TaskError, match="no reward in any supported form"):
        choose_form("x", [{"question": "?", "answer": "a"}], lambda *_: Verdict(0.0))


def test_reward_functions_may_use_the_event_loop_but_not_wait() -> None:
    loop = EnvironmentLoop("word-boxes")

    async def together() -> list[int]:
        async def one() -> int:
            await asyncio.sleep(0)
            return 1

        return await asyncio.gather(one(), one())

    assert loop.run(together(), "together") == [1, 1]
    with pytest.raises(TaskError, match="waits for something in later"):
        loop.run(asyncio.sleep(3600), "later")
    assert loop.run(together(), "together") == [1, 1]

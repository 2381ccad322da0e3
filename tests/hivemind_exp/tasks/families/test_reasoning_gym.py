"""Every allowed generator: its questions are the same everywhere, and its verifier is never more lenient than the
library's."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import FULL_CREDIT, TaskSpec
from hivemind_exp.tasks.families import reasoning_gym as generators
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS, REFUSED
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.registry import PRESETS

SEEDS = [3, 2**31 + 5, 2**32 + 7, 2**61 + 11, 2**64 - 1]
MORE_GENEROUS = {
    "binary_matrix": "spacing between cells does not matter",
    "rotate_matrix": "spacing between cells does not matter",
    "spiral_matrix": "spacing between cells does not matter",
}
"""Generators whose verifier gives full credit where the library's does not, with the reason."""


def spec(name: str, **params: Any) -> TaskSpec:
    return TaskSpec(name, "hivemind_exp.tasks.families.reasoning_gym", name, params=params)


@cache
def fresh(name: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """Return a new object of the library and the item that it makes first."""
    dataset = importlib.import_module("reasoning_gym.factory").create_dataset(name, seed=seed, size=1)
    return dataset, dataset[0]


@pytest.fixture(params=sorted(GENERATORS), scope="module")
def task(request: pytest.FixtureRequest) -> generators.GeneratedTask:
    made = generators.build(spec(request.param))
    made.prepare("make")
    made.prepare("verify")
    return made


def spoiled(answer: str) -> Iterator[str]:
    """Yield near misses and careless spellings of an answer."""
    yield from (answer.upper(), answer.lower(), answer.title(), answer[::-1], answer[1:], answer[:-1])
    yield from (answer + "0", "0" + answer, answer + ".0", "-" + answer, answer + " x", answer + "\n1", f"[{answer}]")
    yield from (answer.replace(" ", ""), answer.replace(" ", "  "), answer.replace("\n", " "), answer.replace(",", ""))
    yield from (answer.replace("1", "2"), answer.replace("0", "1", 1), answer.replace("a", "b", 1), f'"{answer}"')


@pytest.mark.slow
def test_every_library_generator_is_allowed_or_refused() -> None:
    program = "import reasoning_gym.factory as factory; print(*factory.DATASETS)"
    known = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert set(GENERATORS) | set(REFUSED) == known
    assert not set(GENERATORS) & set(REFUSED)
    assert set(PRESETS["sapo"]) <= set(GENERATORS)


def test_every_verifier_is_used_and_every_check_exists() -> None:
    checks = {generator.check for generator in GENERATORS.values()}
    defined = set()
    for module in ("lists", "logic", "numbers", "text"):
        for name, found in vars(importlib.import_module(f"hivemind_exp.tasks.verifiers.{module}")).items():
            if inspect.isfunction(found) and list(inspect.signature(found).parameters) == ["answer", "entry"]:
                defined.add(f"{found.__module__.rpartition('.')[2]}.{name}")
    assert checks == defined
    assert all(callable(generators.verifier(check)) for check in checks)


@pytest.mark.slow
def test_only_the_right_answer_gets_full_credit(task: generators.GeneratedTask) -> None:
    for seed in SEEDS:
        _, entry = task.make(seed)
        dataset, item = fresh(task.name, seed)
        if entry["answer"] is None:
            continue
        right = str(entry["answer"])
        assert task.score(right, entry) == 1.0
        assert task.score("surely wrong", entry) < FULL_CREDIT
        for answer in spoiled(right):
            ours = task.score(answer, entry)
            if ours >= FULL_CREDIT and answer.strip() != right.strip() and task.name not in MORE_GENEROUS:
                assert dataset.score_answer(answer.strip(), item) >= FULL_CREDIT, (right, answer)


@pytest.mark.slow
def test_items_equal_those_of_a_fresh_object(task: generators.GeneratedTask) -> None:
    """This must hold even if one object makes all items, and regardless of which items were made before."""
    for seed in [*SEEDS, *SEEDS[1::-1]]:
        text, entry = task.make(seed)
        _, item = fresh(task.name, seed)
        assert text == item["question"]
        assert entry["answer"] == (None if item["answer"] is None else str(item["answer"]))


@pytest.mark.parametrize("seed", range(5))
def test_conclusions_are_scored_as_in_the_library(seed: int) -> None:
    task = generators.build(spec("propositional_logic"))
    task.prepare("make")
    task.prepare("verify")
    _, entry = task.make(seed)
    dataset, item = fresh("propositional_logic", seed)
    candidates = [item["metadata"]["example_answer"], "P ∧ Q", "P ∨ Q", "¬P", "P → Q", "P ↔ Q", "(P ∧ Q) ∨ ¬Q → P", "P"]
    for answer in [*candidates, *item["metadata"]["premises"]]:
        assert task.score(answer, entry) == dataset.score_answer(answer, item), answer


@pytest.mark.slow
def test_questions_are_made_in_a_home_that_lacks_configuration_of_other_programs(tmp_path: Path) -> None:
    """game_of_life imports cellpylib, and with it matplotlib, which needs a writable directory."""
    command = [sys.executable, "-m", "swarmctl", "tasks", "show", "game_of_life", "-n", "1"]
    environment = {"HOME": str(tmp_path), "PYTHONPATH": ".", "MPLCONFIGDIR": str(tmp_path / "none" / "there")}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "Game of Life" in shown.stdout


@pytest.mark.slow
def test_two_processes_make_the_same_questions() -> None:
    """The workers that make questions run with a fixed hash seed, whatever the node's hash seed is."""
    program = (
        "from hivemind_exp.config import TaskConfig; from hivemind_exp.tasks.mixture import Mixture\n"
        "from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS\n"
        "tasks = [TaskConfig(name=name) for name in sorted(GENERATORS)]\n"
        "mixture = Mixture(tasks, charter=b'', secret=b'', heldout=0, verifiers=0)\n"
        "print([mixture.digest(name, 1) for name in sorted(GENERATORS)]); mixture.close()"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        )
        for seed in ("1", "2")
    ]
    first, second = (run.communicate()[0] for run in runs)
    assert len(first) > 64 * len(GENERATORS)
    assert first == second


def test_spelling_a_word_or_its_reverse_is_the_same_question() -> None:
    task = generators.build(spec("spell_backward"))
    assert task.key("", {"answer": "Pots"}) == task.key("", {"answer": "stop"})


def test_parameters_reach_the_generator() -> None:
    task = generators.build(spec("spell_backward", min_word_len=4, max_word_len=4))
    task.prepare("make")
    assert {len(str(task.make(seed)[1]["answer"])) for seed in range(20)} == {4}


def test_an_unknown_parameter_is_reported() -> None:
    with pytest.raises(TaskError, match="no parameter min_wordlen; did you mean 'min_word_len'"):
        generators.check(spec("spell_backward", min_wordlen=3))
    with pytest.raises(TaskError, match="no parameter seed;"):
        generators.check(spec("spell_backward", seed=3))
    for name in GENERATORS:
        generators.check(spec(name))


@pytest.mark.parametrize(
    ("shortest", "longest", "message"),
    [
        (9, 3, "max_word_len must be >= min_word_len"),
        (30, 30, 'has invalid parameters: "Cannot choose'),
    ],
)
def test_invalid_parameters_are_a_task_error(shortest: int, longest: int, message: str) -> None:
    config = TaskConfig(name="spell_backward", params={"min_word_len": shortest, "max_word_len": longest})
    mixture = Mixture([config], charter=b"", secret=b"", heldout=0)
    with pytest.raises(TaskError, match=message):
        mixture.questions("train", 0, 1)
    mixture.close()

"""Before the first round, a node learns its own correct answers to prompts with examples, without the examples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.config import Config
from hivemind_exp.events import Event
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.trainer.warm_start import MOST_TIMES
from tests.support.nodes import ChanceRewards, Events, make_config
from tests.support.restarts import same_weights
from tests.support.spelling_task import Spelling
from tests.support.tiny_models import save_llama

STEPS = {"steps": 3, "batch": 4, "examples": 2}


class Crash(Events):
    """Raises at the n-th event of a step."""

    def __init__(self, moment: int) -> None:
        super().__init__()
        self._moment = moment

    def __call__(self, event: Event, /) -> None:
        super().__call__(event)
        if len(self.of("step")) == self._moment:
            raise KeyboardInterrupt


class NeverRight(Spelling):
    def score(self, questions: Sequence[Question], _: Sequence[str]) -> list[Score]:
        return [Score(0.0, False, "wrong") for _ in questions]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("model"))


def started(
    model: Path, root: Path, events: Events | None = None, tasks: Any = ChanceRewards, **sections: Any
) -> Events:
    root.mkdir(exist_ok=True)
    events = events or Events()
    settings = {"game": {"rounds": 2}, "prompt": {"style": "answer-tag", "examples": 0}, "warm_start": STEPS}
    settings |= {"model": {"name": str(model)}, "generation": {"max_prompt_tokens": 400}}
    config = make_config(**{**settings, **sections})
    GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: tasks()).run()
    return events


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.runner.choose_style.StyleChooser._calibrate", lambda _: None)


@pytest.mark.slow
@pytest.mark.usefixtures("uncalibrated")
def test_own_correct_answers_are_learned_without_the_examples(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[Any]] = []
    generate = LocalSource.generate

    def recorded(self: LocalSource, asked: Any, count: int, *, seed: int) -> Any:
        prompts.append(list(asked))
        return generate(self, asked, count, seed=seed)

    monkeypatch.setattr(LocalSource, "generate", recorded)
    with pytest.raises(KeyboardInterrupt):
        started(model, tmp_path / "cut", Crash(2))
    with closing(Journal(tmp_path / "cut" / "journal.sqlite", "x")) as journal:
        manifests = list(journal.manifests(0))
    asked = [prompt for some in prompts for prompt in some]
    assert len(asked) == STEPS["steps"] * STEPS["batch"]  # one answer per question
    assert {len(prompt.messages) for prompt in asked} == {2 * STEPS["examples"] + 1}
    assert len(manifests) == STEPS["steps"]  # all were committed before the first was taken
    shown = {prompt.ids for prompt in asked}
    rows = [row for manifest in manifests for row in manifest.rows]
    assert rows
    assert not {row.prompt_ids for row in rows} & shown
    assert max(len(row.prompt_ids) for row in rows) < min(map(len, shown))
    assert {(row.advantage, row.outcome) for row in rows} == {(1.0, 1.0)}
    started(model, tmp_path / "cut")
    events = started(model, tmp_path / "whole")
    assert [event["stage"] for event in events.of("step")] == ["warm-start"] * 3 + ["answer"] * 2
    assert [event["round"] for event in events.of("eval")] == [0, 2]
    (note,) = events.of("note")
    assert note["message"].endswith("answers to prompts with 2 examples are correct; learning them in 3 steps")
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    assert not started(model, tmp_path / "whole", game={"rounds": 3}).of("note")  # only once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "sections", "why"),
    [
        (NeverRight, {}, "no warm start: 0 of 12 answers to prompts with 2 examples are correct. "),
        (
            ChanceRewards,
            {"prompt": {"style": "answer-tag", "examples": 2}},
            "no warm start: the prompts show 2 examples already (warm_start.examples)",
        ),
    ],
)
@pytest.mark.usefixtures("uncalibrated")
def test_a_warm_start_that_cannot_help_is_left_out(
    model: Path, tmp_path: Path, tasks: Any, sections: dict[str, Any], why: str
) -> None:
    events = started(model, tmp_path, tasks=tasks, **sections, eval={"every": 0, "questions": 1})
    assert [each for each in events.of("warning") if each["message"].startswith(why)]
    assert {event["stage"] for event in events.of("step")} == {"answer"}


class OnceRight(Spelling):
    """Rates the first of many completions as right."""

    def score(self, questions: Sequence[Question], _: Sequence[str]) -> list[Score]:
        return [Score(float(place == 0), False, "chance") for place, _ in enumerate(questions)]


@pytest.mark.slow
@pytest.mark.usefixtures("uncalibrated")
def test_few_correct_answers_are_not_learned_too_often(model: Path, tmp_path: Path) -> None:
    short = {"game": {"rounds": 1}, "eval": {"every": 0, "questions": 1}, "warm_start": {"steps": 9, "batch": 2}}
    events = started(model, tmp_path, tasks=OnceRight, **short)
    assert [event["stage"] for event in events.of("step")] == ["warm-start"] * MOST_TIMES + ["answer"]


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"model": {"name": "tiny"}}, "a model that can follow examples"),
        ({"offload": {"provider": "openai", "kind": "relay"}}, "not a relay"),
        ({"game": {"kind": "study-group"}}, "only works with game.kind"),
    ],
)
def test_a_warm_start_is_refused_where_it_cannot_work(sections: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Config.model_validate({**sections, "warm_start": {"steps": 1}})

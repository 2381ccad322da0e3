"""A new node calibrates its model once. Nothing that happens to it meanwhile, or later, makes it ask in another way."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import FileProblem
from hivemind_exp.events import CalibrationEvent, Event, PhaseEvent
from hivemind_exp.game.node_style import read_levels
from hivemind_exp.intervals import in_percent
from hivemind_exp.models.loading import load_tokenizer
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.choose_style import no_signal
from hivemind_exp.runner.grpo_runner import GRPORunner, make_mixture
from hivemind_exp.seeds import derive_seed
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.mixture import Mixture
from tests.support.nodes import ChanceRewards, Events, make_config, run
from tests.support.tiny_models import TEMPLATE, save_llama

pytestmark = pytest.mark.slow

SWITCH = TEMPLATE + "{% if add_generation_prompt and enable_thinking %}<think>{% endif %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("model")))


def config(model: str, rounds: int = 1, **sections: dict[str, Any]) -> Config:
    return make_config(
        model={"name": model},
        game={"rounds": rounds, "groups": 1, "group_size": 2},
        generation={"max_completion_tokens": 3, "max_prompt_tokens": 700, "batch": 64},
        eval={"every": 0, "questions": 2},
        **sections,
    )


def asked(root: Path) -> list[str]:
    """Return the first message of the prompts in a node's journal, by round."""
    with closing(sqlite3.connect(root / "journal.sqlite")) as database:
        rows = database.execute("SELECT messages FROM prompts ORDER BY round").fetchall()
    return [json.loads(messages)[0]["content"] for (messages,) in rows]


class Stopping(Events):
    """Stops the node as soon as its calibration has begun."""

    def __init__(self, stop: StopFlag) -> None:
        super().__init__()
        self._stop = stop

    def __call__(self, event: Event, /) -> None:
        super().__call__(event)
        if isinstance(event, PhaseEvent) and event.name == "trying prompt styles":
            self._stop.set()


def test_a_new_node_is_calibrated_once_before_anything_else(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.round_progress.REPORT_EVERY_S", 0.0)
    first, again = Events(), Events()
    run(config(model), tmp_path, emit=first)
    (found,) = first.of("calibration")
    lines = [event["message"] for event in first.of("note") if event["code"] == "calibration"]
    assert len(lines) == 3
    assert found["style"] in lines[0]
    assert f"{100 * found['right']:.0f} % correct ({in_percent(found['right'], found['questions'])}), " in lines[1]
    assert found["tried"] == 10
    names = [name for name, _ in first.all]
    assert names.index("calibration") < names.index("eval")
    phases = [event["name"] for name, event in first.all[: names.index("calibration")] if name == "phase"]
    assert "trying prompt styles" in phases
    assert "evaluating" not in phases, "calibration is no evaluation"
    assert "evaluating" in [event["name"] for event in first.of("phase")]
    assert not any(event["code"] == "nothing_earned" for event in first.of("warning"))
    record = json.loads((tmp_path / "prompt.json").read_text())
    assert record["style"]["form"] == record["found"]["form"] == found["form"]
    run(config(model, rounds=2), tmp_path, emit=again)
    assert again.of("calibration") == []
    before, after = asked(tmp_path)
    assert before.split()[-3:] == after.split()[-3:]


def test_a_node_that_began_without_a_record_keeps_asking_in_tags(tmp_path: Path, model: str) -> None:
    run(config(model, prompt={"style": "tags"}), tmp_path)
    (tmp_path / "prompt.json").unlink()
    events = Events()
    run(config(model, rounds=2), tmp_path, emit=events)
    assert events.of("calibration") == []
    before, after = asked(tmp_path)
    assert before == after
    assert "<think>" in after


def test_a_calibration_that_is_interrupted_leaves_nothing_and_starts_again(tmp_path: Path, model: str) -> None:
    stop = StopFlag()
    with pytest.raises(StopRequested):
        run(config(model), tmp_path, stop=stop, emit=Stopping(stop))
    assert not (tmp_path / "prompt.json").exists()
    events = Events()
    run(config(model), tmp_path, emit=events)
    assert len(events.of("calibration")) == 1


def test_a_style_that_is_set_is_only_measured(tmp_path: Path, model: str) -> None:
    events = Events()
    run(config(model, prompt={"style": "plain", "examples": 2}), tmp_path, emit=events)
    (found,) = events.of("calibration")
    assert (found["form"], found["examples"], found["tried"]) == ("plain", 2, 1)
    assert "as set" in events.of("note")[0]["message"]


class NoRewards(ChanceRewards):
    """Accepts no answer."""

    def score(self, questions: Any, completions: Any) -> Any:
        return [Score(0.0, True, "wrong") for _ in zip(questions, completions, strict=True)]


def test_a_node_whose_model_earns_nothing_says_so_before_it_trains(tmp_path: Path, model: str) -> None:
    events, wanted = Events(), config(model, prompt={"style": "boxed"})
    GRPORunner(wanted, NodeFiles(tmp_path), events, make_tasks=lambda *_: NoRewards()).run()
    order = [event.get("code", name) for name, event in events.all]
    assert order.index("nothing_earned") < order.index("eval") < order.index("step")
    assert order.count("nothing_earned") == 1


def test_thinking_is_chosen_and_kept_in_the_checkpoints_template(tmp_path: Path) -> None:
    model = str(save_llama(tmp_path / "model", SWITCH))
    events = Events()
    run(config(model), tmp_path / "node", emit=events)
    (found,) = events.of("calibration")
    assert found["tried"] == 18
    assert found["thinking"] in (True, False)
    (checkpoint,) = (tmp_path / "node" / "checkpoints").glob("*/model")
    saved = load_tokenizer(make_config(model={"name": str(checkpoint)}).model)
    assert f"enable_thinking = {str(found['thinking']).lower()}" in saved.chat_template


def test_the_tiny_model_is_not_calibrated(tmp_path: Path) -> None:
    events = Events()
    run(make_config(game={"rounds": 1}), tmp_path, emit=events)
    assert events.of("calibration") == []
    assert not (tmp_path / "prompt.json").exists()


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"ended": 0.2}, "most are cut at the length limit. Raise generation.max_completion_tokens (now 3)"),
        ({"readable": 0.2}, "most are without a readable answer. Choose a model that follows instructions"),
        ({}, "most are wrong. Start with easier questions (game.curriculum=true)"),
    ],
)
def test_a_model_that_earns_nothing_is_reported_with_what_helps(measured: dict[str, float], said: str) -> None:
    shares: dict[str, Any] = {"right": 0.0, "sampled": 0.0, "readable": 1.0, "ended": 1.0} | measured
    event = CalibrationEvent(
        **shares,
        style="tags",
        form="tags",
        **{"examples": 0, "system": True, "thinking": None, "tried": 12, "questions": 9, "samples": 2},
        completion_length=3.0,
        tasks={},
        completions=9,
        tokens=9,
    )
    assert said in no_signal(config("model"), event)
    assert "max_prompt_tokens" not in no_signal(config("model"), event)
    long = no_signal(config("model"), event, too_long=6)
    assert said in long
    assert "in 6 of the styles were too long to try: raise generation.max_prompt_tokens (now 700)" in long


class MastersTwoLevels(Mixture):
    """Rates all answers on the two easiest levels as right, and a random half of the others."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return [
            Score(float((question.level or 0) < 2 or derive_seed(question.digest, text) % 2), True, "chance")
            for question, text in zip(questions, completions, strict=True)
        ]


def test_a_curriculum_starts_where_the_model_is_not_always_right(tmp_path: Path, model: str) -> None:
    def play(rounds: int) -> Events:
        sums = TaskConfig(name="chain_sum", params={"min_terms": 2, "max_terms": 6, "max_digits": 4})
        plain = config(model, rounds)
        game = plain.game.model_copy(update={"curriculum": True})
        node = plain.model_copy(update={"tasks": [sums], "game": game})
        events = Events()

        def make(*parts: Any) -> Mixture:
            made = make_mixture(*parts)
            made.__class__ = MastersTwoLevels
            return made

        GRPORunner(node, NodeFiles(tmp_path), events, make_tasks=make).run()
        return events

    first = play(1)
    (found,) = first.of("calibration")
    assert found["tasks"]["chain_sum"]["sampled"] == 1
    assert found["levels"] == {"chain_sum": 2}
    notes = [event["message"] for event in first.of("note") if event["code"] == "level"]
    assert len(notes) == 1
    assert notes[0].startswith("chain_sum: level 3 of 7 from round 1 on")
    play(2)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        assert {level for (level,) in database.execute("SELECT level FROM visits")} == {2}


def test_a_node_with_a_style_and_no_curriculum_needs_no_record(tmp_path: Path, model: str) -> None:
    (tmp_path / "prompt.json").write_text("damaged")
    GRPORunner(config(model, prompt={"style": "plain"}), NodeFiles(tmp_path), Events()).run()
    assert len(asked(tmp_path)) == 1


def test_a_damaged_record_of_levels_is_reported(tmp_path: Path) -> None:
    record = tmp_path / "prompt.json"
    assert read_levels(record) == {}
    record.write_text('{"schema": 1, "found": {"levels": {"chain_sum": -1}}}')
    with pytest.raises(FileProblem, match="it has no valid levels"):
        read_levels(record)

"""Sentences about a run's events."""

from __future__ import annotations

import io
from typing import Any

import pytest

from swarmctl.terminal.command_line import typed
from swarmctl.terminal.options import Level
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.round_line import round_done
from swarmctl.terminal.sentences import (
    drop,
    ending,
    evaluation,
    hints,
    learning,
    level,
    notable,
    phase,
    spending,
    start,
)
from swarmctl.terminal.views import PlainView
from tests.support.command_line import ROOT


@pytest.mark.parametrize(
    ("event", "severe"),
    [
        ({"event": "note", "message": "x"}, Level.INFO),
        ({"event": "warning", "code": "x", "message": "x"}, Level.WARNING),
        ({"event": "workers", "replaced": 1, "unverified": 0}, Level.WARNING),
        ({"event": "judge", "round": 0, "graded": 7, "ungraded": 1}, Level.WARNING),
        ({"event": "judge", "round": 0, "graded": 8, "ungraded": 0}, Level.INFO),
        ({"event": "scores", "round": 0, "scored": 7, "unscored": 1}, Level.WARNING),
        ({"event": "error", "code": "x", "message": "x"}, Level.ERROR),
    ],
)
def test_whatever_reads_as_a_warning_counts_as_one(event: dict[str, Any], severe: Level) -> None:
    assert level(event) is severe
    stream = io.StringIO()
    PlainView(stream, quiet=True).event(event, RunView())
    assert bool(stream.getvalue()) == (severe is Level.WARNING), "errors are printed when the run ends"


@pytest.mark.parametrize(
    ("before", "after", "questions", "said"),
    [(0.41, 0.27, 200, True), (0.41, 0.35, 200, False), (0.41, 0.27, 20, False), (0.27, 0.41, 200, False)],
)
def test_only_a_drop_beyond_chance_is_reported(before: float, after: float, questions: int, said: bool) -> None:
    progress = RunView(accuracy={0: before, 30: after}, questions=questions)
    assert bool(drop(progress)) == said
    event = {"accuracy": after, "questions": questions, "round": 30}
    assert evaluation(event, progress).endswith("This drop is larger than chance would explain.") == said


def test_a_drop_names_the_settings_that_help() -> None:
    progress = RunView(accuracy={0: 0.41, 30: 0.27}, questions=200)
    assert "train.learning_rate" in str(drop(progress))
    progress.apply({"event": "step", "step": 1, "source": "teacher", "rows": 3})
    assert "(41 % (34–48) → 27 % (21–34))" in str(drop(progress))
    assert "offload.share" in str(drop(progress))


@pytest.mark.parametrize(
    ("device", "parameters", "resumed", "slow"),
    [
        ("cpu", 135_000_000, None, True),
        ("cpu", 232_000, None, False),
        ("cuda", 135_000_000, None, False),
        ("cpu", 135_000_000, 3, False),
    ],
)
def test_a_real_model_on_a_cpu_is_said_to_be_slow_before_the_first_round(
    device: str, parameters: int, resumed: int | None, slow: bool
) -> None:
    loaded = {"event": "start", "model": "m", "device": device, "dtype": "float32", "parameters": parameters}
    sizes = {"groups": 32, "group_size": 8, "completion_tokens": 32}
    pace = "a round of 256 completions of up to 32 tokens takes up to 100 seconds on two cores (estimate)"
    assert (f" Without a GPU, {pace}." in start(loaded | sizes | {"resumed_round": resumed})) == slow
    assert "Without" not in start(loaded | sizes | {"completion_tokens": None}), "an API generates"


def test_a_phase_counts_its_parts_or_percent() -> None:
    assert phase({"name": "evaluating"}) == "Evaluating."
    assert phase({"name": "warming up", "done": 25, "total": 100}) == "Warming up: 25 of 100."
    assert phase({"name": "trying prompt styles", "done": 25, "total": 100, "percent": True}) == (
        "Trying prompt styles: 25 %."
    )


def test_a_resumed_node_reports_its_own_rounds_and_not_only_the_checkpoints() -> None:
    loaded = {"event": "start", "model": "m", "device": "cpu", "dtype": "float32"}
    assert start(loaded) == "Training the model on cpu (float32)."
    assert start(loaded | {"resumed_round": 220, "checkpoint_round": 220}).endswith(", resuming after round 220.")
    text = start(loaded | {"resumed_round": 220, "checkpoint_round": 200})
    assert (
        ", resuming after round 220. The checkpoint is from round 200: the steps of later rounds are repeated" in text
    )
    assert "There is no checkpoint yet" in start(loaded | {"resumed_round": 7, "checkpoint_round": None})


def test_a_node_that_stops_while_it_repeats_steps_has_lost_no_round() -> None:
    progress = RunView()
    progress.apply({"event": "start", "resumed_round": 60, "checkpoint_round": 40})
    progress.apply({"event": "stop", "reason": "signal", "round": 42, "steps": 42})
    assert progress.round == 60
    assert ending(progress.stop or {}) == "Stopped after 60 rounds."
    assert ending({"event": "stop", "reason": "error", "round": 0}) == "Failed before the first round ended."


def test_reserves_are_not_shown_as_spent() -> None:
    progress = RunView(usd_total=0.44, usd_reserved=2.29, usd_cap=0.001)
    assert spending(progress) == "0.44 of 0.001 USD + 2.29 USD reserved"
    progress.apply({"event": "stop", "reason": "done"})
    assert spending(progress) == "0.44 of 0.001 USD"


def step(number: int, source: str, norm: float | None, nll: float | None = None) -> dict[str, object]:
    return {"event": "step", "step": number, "source": source, "rows": 1, "source_grad_norm": norm, "nll": nll}


def test_learning_shows_each_sources_part_of_the_latest_gradient_and_the_teachers_likelihood() -> None:
    progress = RunView(round=1)
    progress.apply(step(0, "policy", 0.5))
    assert learning(progress) is None
    for event in (step(1, "policy", 0.314), step(1, "teacher", 1.25, 1.837), step(1, "peer", 0.02, 3.0)):
        progress.apply(event)
    assert learning(progress) == "teacher's text 1.84 nats per token; gradient norm: own 0.31, peers 0.02, teacher 1.2"
    teacher = {"event": "rollouts", "round": 0, "source": "teacher", "count": 4, "correct": 3, "reward": 0.75}
    assert "3 of 4 correct from teacher, NLL 1.84" in round_done([teacher], progress)
    progress.apply(step(3, "hinted", 0.9, 0.5))
    assert learning(progress) == "hinted 0.50 nats per token"
    hinted = {"event": "rollouts", "round": 0, "source": "hinted", "count": 4, "correct": 3, "reward": 0.75}
    assert "3 of 4 correct with hints" in round_done([hinted], progress)
    progress.apply({"event": "hints", "round": 0, "hints": 3, "taught": 2})
    assert hints(progress) == "3 hints (2 taught something)"
    progress.apply(step(4, "teacher", 0.9, 1.5))
    assert learning(progress) == "teacher's text 1.50 nats per token"


def test_the_docs_explain_the_gradient_norms_in_the_words_of_the_live_view() -> None:
    progress = RunView(round=1)
    for event in (step(1, "policy", 1.4), step(1, "peer", 0.0028)):
        progress.apply(event)
    assert f"`{learning(progress)}` is how strongly" in (ROOT / "docs/swarm.md").read_text()


def test_a_teacher_that_scores_is_reported_with_the_divergence() -> None:
    progress = RunView(round=1, accuracy={0: 0.41, 30: 0.27}, questions=200)
    progress.apply({"event": "scores", "round": 0, "scored": 120, "unscored": 8})
    progress.apply(step(0, "policy", 0.5) | {"reverse_kl": 0.2345})
    assert (progress.scored, progress.learned_from_api) == (120, 120)
    assert learning(progress) == "0.234 nats per token from the teacher (reverse KL)"
    own = {"event": "rollouts", "round": 0, "source": "policy", "count": 4, "correct": 3, "reward": 0.75}
    assert round_done([own], progress) == "Round 1: 3 of 4 correct, reverse KL 0.234, reward 0.75."
    assert "offload.teach = answers" in str(drop(progress))
    progress.apply(step(1, "policy", 0.5))
    assert learning(progress) is None


def test_only_partly_scored_rounds_get_a_sentence() -> None:
    event = {"event": "scores", "round": 4, "scored": 120, "unscored": 8}
    assert notable(event) == "warning: the teacher did not score 8 completions of round 5."
    assert notable(event | {"unscored": 0}) is None
    assert notable(event | {"scored": 0}) is None  # another warning says why


def test_the_warning_about_a_rejected_key_ends_with_the_command_that_saves_another() -> None:
    event = {"event": "warning", "code": "provider_down", "message": "box: the API key was rejected; waiting"}
    assert notable(event) == "warning: box: the API key was rejected; waiting."
    command = typed("swarmctl keys set box")
    assert notable(event | {"next": "swarmctl keys set box"}) == (
        f"warning: box: the API key was rejected; waiting. Save another key with `{command}`; the node uses it "
        "from its next start."
    )

"""``swarmctl eval``: what is asked of which model, what it prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import LimitReached
from swarmctl import cli
from swarmctl.errors import Exit
from tests.support.command_line import PRICED_BOX, write_profile
from tests.swarmctl.trained.conftest import make_node


def results(*verdicts: list[bool | None], task: str = "sums") -> list[dict[str, Any]]:
    """Return the events of questions with these verdicts on their answers."""
    found: list[dict[str, Any]] = [{"event": "questions", "count": len(verdicts)}]
    for number, each in enumerate(verdicts):
        answers = [
            {"text": f"t{n}", "correct": verdict, "why": "because", "truncated": False, "tokens": 10}
            for n, verdict in enumerate(each)
        ]
        about = {"task": task, "question": f"q{number}?", "digest": f"d{number}", "reference": "7"}
        found.append({"event": "result", **about, "answers": answers})
    return found


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, scripted: Any) -> Callable[..., list[dict[str, Any]]]:
    """Script one process per evaluated model, and return what they were started with."""

    def use(*scripts: list[Any]) -> list[dict[str, Any]]:
        all_: list[dict[str, Any]] = []
        from swarmctl.trained import evaluation

        remaining = iter(scripts)

        def model_process(mode: str, node: Any, **more: Any) -> Any:
            all_.append(scripted("evaluation", next(remaining)))
            process = evaluation.model_process(mode, node, **more)
            monkeypatch.setattr(evaluation, "model_process", model_process)
            return process

        monkeypatch.setattr(evaluation, "model_process", model_process)
        return all_

    return use


def test_two_models_are_compared_on_the_nodes_own_questions(
    home: Path, started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home)
    runs = started(results(*[[True]] * 8, [False], [None]), results(*[[False]] * 9, [True]))
    assert cli.run(["eval", "small", "--against", "base", "-n", "10", "--examples", "1"]) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "model                  questions  correct       tokens  cost",
        "small after round 20           9  89 % (56–98)  100     -",
        "small before training         10  10 % (2–40)   100     -",
        "small after round 20 is better on 8 questions, small before training on 0; they are equal on 1. "
        "The difference is significant (p = 0.0078, McNemar's exact test).",
        "",
        "question 1 (sums), reference: 7",
        "    | q0?",
        "  small after round 20: because",
        "    | t0",
        "  small before training: because",
        "    | t0",
    ]
    trained, base = runs
    assert (trained["node"].at(), base["node"].at()) == ({"step": 40, "round": 20}, None)
    assert trained["asked"] == base["asked"]
    assert trained["asked"]["node_dir"] == str(home / "nodes" / "small")
    assert (trained["samples"], trained["greedy"], trained["questions"]) == (1, True, 10)
    assert trained["results"] != base["results"]


def test_several_answers_give_pass_at_k_and_fixed_keys(
    home: Path, started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home)
    (run,) = [started(results([True, False], [False, False]))]
    assert cli.run(["eval", "small", "-k", "2", "--json", "--examples", "1"]) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"schema", "questions_of", "k", "samples", "models", "comparison"}
    assert (found["questions_of"], found["k"], found["samples"], found["comparison"]) == ("small", 2, 2, None)
    (model,) = found["models"]
    assert set(model) == {
        *("model", "node", "checkpoint", "questions", "unverified", "pass_at_1", "pass_at_k", "by_task"),
        *("completion_tokens", "usd", "results", "examples"),
    }
    assert (model["pass_at_1"]["value"], model["pass_at_k"]["value"]) == (0.25, 0.5)
    assert (model["completion_tokens"], model["usd"], len(model["examples"])) == (40, None, 1)
    assert run[0]["greedy"] is False


@pytest.mark.slow
def test_an_api_needs_consent_to_its_cost_and_gets_the_nodes_questions_and_style(
    home: Path, started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home, prompt={"style": "boxed"})
    write_profile(home, "mine", PRICED_BOX)
    command = ["eval", "box", "--against", "small", "-n", "2", "-p", "mine"]
    runs = started(results([True], [True]), results([False], [True]))
    assert cli.run([*command, "--no-input"]) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    again = "eval box --against small --profile mine --questions 2 -k 1 --samples 1 --max-usd 5"
    assert "error: box:test-model costs money (about 0." in said
    assert said.splitlines()[-1].endswith(f"swarmctl {again}")
    assert runs == []
    assert cli.run([*command, "--max-usd", "0.5"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert "box:test-model" in out
    down = err.splitlines()
    place = next(number for number, line in enumerate(down) if "http://127.0.0.1:9/v1 accepts no connection" in line)
    assert "swarmctl doctor api --profile mine " in down[place + 1]
    api, node = runs
    config = api["node"].config
    assert (config.offload.kind, config.offload.limits.usd, config.offload.fallback) == ("relay", 0.5, [])
    assert config.offload.max_tokens == 1024
    assert api["node"].style == node["node"].style
    assert api["asked"]["node_dir"] == str(home / "nodes" / "small")


@pytest.mark.slow
def test_a_reached_cap_suggests_this_command_with_a_higher_one(
    home: Path, started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(home, "mine", PRICED_BOX)
    started([LimitReached("spending cap reached", next="swarmctl run --max-usd 2")])
    command = ["eval", "box", "--task", "spell_backward", "-n", "3", "-p", "mine", "--max-usd", "1"]
    assert cli.run(command) == Exit.LIMIT
    said = capsys.readouterr().err
    assert "error: spending cap reached. Every answer is saved" in said
    assert said.rstrip().endswith(
        "eval box --task spell_backward --profile mine --questions 3 -k 1 --samples 1 --max-usd 2"
    )


@pytest.mark.slow
def test_the_suggested_command_continues_the_same_evaluation(
    home: Path, started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(home, "mine", PRICED_BOX)
    started([LimitReached("spending cap reached", next="swarmctl run --max-usd 2")])
    given = ["--temperature", "0.5", "--max-tokens", "99", "--examples", "3"]
    assert cli.run(["eval", "box", "--task", "spell_backward", "-p", "mine", "--max-usd", "1", *given]) == Exit.LIMIT
    assert " --temperature 0.5 --max-tokens 99 --examples 3 --max-usd 2" in capsys.readouterr().err


def test_ctrl_c_keeps_every_answer(home: Path, started: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make_node(home)
    started([*results([True])[:1], KeyboardInterrupt()])
    assert cli.run(["eval", "small"]) == Exit.INTERRUPTED
    assert capsys.readouterr().err.splitlines() == [
        "Interrupted. Every answer is saved; to continue, run the same command."
    ]


def test_what_cannot_be_evaluated_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_node(home)
    for arguments, cause in {
        ("smal", "--task", "sapo"): "unknown node, provider or model 'smal'; did you mean small?",
        (
            "org/model",
        ): "no questions to ask: org/model is not a node on this machine. Choose a task with --task, or compare with a "
        "node: --against NODE",
        ("small", "-k", "4", "--samples", "2"): "-k 4 needs --samples 4 or more",
        ("small", "-k", "4", "--temperature", "0"): "--temperature 0 gives the same answer each time",
        (
            "org/model",
            "--task",
            "sapo",
            "--against",
            "base",
        ): "--against base needs a node, but org/model is not a node",
    }.items():
        assert cli.run(["eval", *arguments]) in (Exit.CONFIGURATION, Exit.USAGE)
        assert capsys.readouterr().err.startswith(f"error: {cause}")

"""``swarmctl sample`` and ``chat``: what they print, and which nodes they refuse."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.game.node_style import write_style
from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.node_files import NodeFiles
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.safe_text import QuotedStream
from tests.swarmctl.trained.conftest import make_node


def answer(
    text: str, *, correct: bool | None = None, why: str | None = None, truncated: bool = False
) -> dict[str, Any]:
    return {"text": text, "tokens": len(text), "truncated": truncated, "correct": correct, "why": why or None}


SAMPLED = [
    {
        "event": "question",
        "question": "2 + 3?",
        "task": "sums",
        "reference": "5",
        "before": answer("I like\nsums", correct=False, why="no answer tag", truncated=True),
    },
    {"event": "text", "text": "fi"},
    {"event": "text", "text": "ve\x1b[2J"},
    {"event": "answer", **answer("five\x1b[2J", correct=True, why="correct")},
]


def test_a_sample_shows_reference_and_verdict_before_and_after(
    home: Path, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home)
    started = scripted("sample", SAMPLED)
    assert cli.run(["sample", "small", "-n", "1", "--checkpoint", "40", "--device", "cpu"]) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "question 1 (sums), reference: 5",
        "    | 2 + 3?",
        "  before training:",
        "    | I like",
        "    | sums",
        "    wrong: no answer tag, 11 tokens, cut off at the length limit",
        "  after round 20:",
        "    | five",
        "    correct, 8 tokens",
    ]
    assert (started["questions"], started["base"], started["seed"]) == (1, True, None)
    assert started["node"].config.model.device == "cpu"


def test_an_answer_that_is_shown_while_it_is_written_is_followed_by_its_verdict(
    home: Path, scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_node(home)
    scripted("sample", SAMPLED)
    monkeypatch.setattr("swarmctl.trained.sample.can_draw", lambda *_: True)
    assert cli.run(["sample", "small", "-n", "1"]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "  after round 20:"
    assert "five" in lines[-2].replace("\x1b[2J", "")
    assert lines[-1] == "    correct, 8 tokens"


def test_a_sample_as_json_has_fixed_keys(home: Path, scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make_node(home)
    scripted("sample", SAMPLED)
    assert cli.run(["sample", "small", "--json"]) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoint"] == {"step": 40, "round": 20}
    (only,) = found["samples"]
    assert set(only) == {"task", "question", "reference", "before", "after"}
    assert set(only["before"]) == set(only["after"]) == {"text", "tokens", "truncated", "correct", "why"}


def test_an_own_prompt_is_sampled_with_the_nodes_settings_and_yours(
    home: Path, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home, offload={"provider": "openai"})
    prompt = [{"event": "question", "question": "hi", "before": None}, {"event": "answer", **answer("ho")}]
    started = scripted("sample", prompt)
    options = ["--temperature", "0.7", "--seed", "4", "--max-tokens", "9", "--system", "Be brief."]
    assert cli.run(["sample", "small", "hi", *options]) == Exit.DONE
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["prompt", "    | hi", "  after round 20:", "    | ho", "    2 tokens"]
    assert (started["text"], started["base"], started["seed"], started["system"]) == ("hi", False, 4, "Be brief.")
    generation = started["node"].config.generation
    assert (generation.temperature, generation.max_completion_tokens) == (0.7, 9)
    assert started["node"].config.offload.provider == "off"


def test_the_latest_prompt_is_repeated_with_its_system_prompt(
    home: Path, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home)
    assert cli.run(["sample", "small", "--last"]) == Exit.CONFIGURATION
    assert "node small has not been given a prompt yet" in capsys.readouterr().err
    scripted("sample", [])
    assert cli.run(["sample", "small", "Why?", "--system", "Be brief."]) == Exit.DONE
    scripted("sample", [])
    assert cli.run(["sample", "small"]) == Exit.DONE  # held-out questions are no prompt
    again = scripted("sample", [])
    assert cli.run(["sample", "small", "--last", "--base"]) == Exit.DONE
    assert (again["text"], again["system"], again["base"]) == ("Why?", "Be brief.", True)
    other = scripted("sample", [])
    assert cli.run(["sample", "small", "--last", "--system", ""]) == Exit.DONE
    assert (other["text"], other["system"]) == ("Why?", "")
    assert cli.run(["sample", "small", "--last", "What?"]) == Exit.USAGE
    assert (home / "nodes/small/sample.json").stat().st_mode & 0o777 == 0o600


def test_a_chat_as_json_answers_each_line_with_one_object(
    home: Path, scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_node(home)
    started = scripted(
        "chat",
        [
            {"event": "ready"},
            {"event": "text", "text": "to"},
            {"event": "text", "text": "day"},
            {"event": "answer", "truncated": True, "stopped": False, "forgotten": 2},
            {"event": "refused", "message": "too long"},
            {"event": "answer", "truncated": False, "stopped": False, "forgotten": 0},
        ],
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO('When?\n\n"a\\nb"\n/exit\n'))
    assert cli.run(["chat", "small", "--json"]) == Exit.DONE
    captured = capsys.readouterr()
    same = {"schema": 1, "node": "small", "checkpoint": {"step": 40, "round": 20}}
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        same | {"message": "When?", "answer": "today", "truncated": True, "forgotten": 2, "error": None},
        same | {"message": "a\nb", "answer": None, "truncated": None, "forgotten": None, "error": "too long"},
        same | {"message": "/exit", "answer": "", "truncated": False, "forgotten": 0, "error": None},
    ]
    assert captured.err == ""
    assert started["process"].said == ["When?", "a\nb", "/exit"]


def test_a_node_is_asked_as_its_calibration_decided(home: Path, scripted: Any) -> None:
    chosen = PromptStyle("boxed", 1, system=False, thinking=True)
    write_style(make_node(home) / "prompt.json", chosen, {})
    prompt = [{"event": "question", "question": "hi", "before": None}, {"event": "answer", **answer("ho")}]
    started = scripted("sample", prompt)
    assert cli.run(["sample", "small", "hi"]) == Exit.DONE
    assert started["node"].style == chosen
    assert started["node"].config.model.thinking is True


@pytest.mark.parametrize("command", ["sample", "chat"])
def test_nodes_without_a_model_to_load_are_errors(home: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_node(home, "small", checkpoint=False)
    make_node(home, "relay", offload={"provider": "openai", "kind": "relay"})
    (home / "nodes" / "new").mkdir()
    (home / "nodes" / "new" / "node.json").write_text("{}")
    for name, cause in {
        "smal": "unknown node 'smal'; did you mean small?",
        "small": "node small has no checkpoint yet; it saves one every 10 rounds (checkpoint.every) and when it stops",
        "relay": "node relay is a relay: it trains no model",
        "new": "node new has not run yet",
    }.items():
        assert cli.run([command, name]) == Exit.CONFIGURATION
        assert capsys.readouterr().err.startswith(f"error: {cause}\n  try: ")


def test_a_missing_checkpoint_is_an_error_that_lists_those_there_are(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home)
    for command, *more in (["sample"], ["chat"], ["eval"], ["export", "DIR"]):
        assert cli.run([command, "small", *more, "--checkpoint", "7"]) == Exit.CONFIGURATION
        newest = typed(" ".join(["swarmctl", command, "small", *more]))
        assert capsys.readouterr().err == f"error: node small: no checkpoint 7; there are 40\n  try: {newest}\n"


def test_if_every_checkpoint_is_damaged_the_node_itself_is_suggested(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = NodeFiles(make_node(home))
    next(files.checkpoints.glob("*/checkpoint.json")).unlink()
    assert cli.run(["sample", "small"]) == Exit.CONFIGURATION
    said = "error: node small: checkpoint 40 is damaged: checkpoint.json is missing"
    assert capsys.readouterr().err == f"{said}\n  try: {typed('swarmctl run --node small')}\n"


def test_an_invalid_device_names_the_flag(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_node(home)
    assert cli.run(["sample", "small", "--device", "gpu"]) == Exit.USAGE
    assert "invalid --device: 'gpu'. Use auto, cpu, mps, xpu, cuda or cuda:N" in capsys.readouterr().err


def test_a_chat_sends_each_line_and_ends_at_the_end_of_the_input(
    home: Path, scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_node(home)
    done = {"event": "answer", "truncated": False, "stopped": False, "forgotten": 0}
    events = [
        {"event": "ready"},
        *({"event": "text", "text": "one "}, {"event": "text", "text": "two"}, done),
        {"event": "refused", "message": "this is too long"},
        *({"event": "text", "text": "three"}, KeyboardInterrupt(), done | {"stopped": True, "forgotten": 2}),
    ]
    started = scripted("chat", events)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nlong\nagain\n"))
    assert cli.run(["chat", "small", "--temperature", "0"]) == Exit.DONE
    out, said = capsys.readouterr()
    assert out == "one two\nthree\n"
    assert started["process"].said == ["hello", "long", "again"]
    assert started["process"].interrupts == 1
    assert said.splitlines() == [
        "Chat with node small (after round 20).",
        f"This tiny model knows only its task, in the task's own words. To see them: {typed('swarmctl sample small')}",
        "error: this is too long",
        "Stopped.",
        "The oldest 2 turns no longer fit into the model's context and were dropped.",
    ]
    assert (started["node"].at(), started["seed"]) == ({"step": 40, "round": 20}, None)


def test_on_a_terminal_a_chat_says_how_to_leave(
    home: Path, scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_node(home)
    scripted("chat", [{"event": "ready"}])
    typed_text = io.StringIO()
    monkeypatch.setattr(typed_text, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed_text)
    assert cli.run(["chat", "small"]) == Exit.DONE
    assert capsys.readouterr().err.startswith(
        "Chat with node small (after round 20). To stop an answer, press Ctrl-C; to leave, type /exit or press Ctrl-D."
    )


@pytest.mark.parametrize("word", ["/exit", "exit", "quit"])
def test_a_chat_with_the_base_model_needs_no_checkpoint_and_ends_at_exit(
    word: str, home: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home, checkpoint=False)
    started = scripted("chat", [{"event": "ready"}])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"/help\n{word}\nmore\n"))
    assert cli.run(["chat", "small", "--base"]) == Exit.DONE
    assert started["process"].said == []
    assert capsys.readouterr().err.splitlines()[-1] == (
        "To stop an answer, press Ctrl-C; to leave, type /exit or press Ctrl-D."
    )
    assert (started["node"].at(), started["seed"]) == (None, 0)


@pytest.mark.parametrize("text", ["a word and another", "x" * 50, "one\n\ntwo\x1b", "kanji 漢字漢字漢字漢字漢字漢字"])
def test_streamed_text_is_marked_on_every_line_however_it_is_cut(text: str) -> None:
    lines = []
    for size in (1, 3, 100):
        written: list[str] = []
        stream = QuotedStream(written.append, "| ", 23)
        for start in range(0, len(text), size):
            stream(text[start : start + size])
        stream.end()
        lines.append("".join(written).splitlines())
    assert all(line.startswith("| ") and len(line) <= 23 for found in lines for line in found)
    letters = [set("".join(line.removeprefix("| ") for line in found)) for found in lines]
    assert letters[0] == letters[1] == letters[2]

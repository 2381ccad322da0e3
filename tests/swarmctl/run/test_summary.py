"""The text at the end of a run that offloads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import OffloadConfig
from swarmctl.nodes.directory import Node
from swarmctl.nodes.lookup import files_of
from swarmctl.run.summary import conclusion, introduction, next_steps
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import Resolved, given, resolve
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.round_line import round_done


@pytest.fixture
def resolved(home: Path) -> Resolved:
    overrides = [given("--offload", "offload.provider", "groq"), given("--node", "node.name", "n")]
    return resolve(profiles.read(profiles.find("cpu")), overrides, {})


def lines(resolved: Resolved, after: float, *events: dict[str, Any]) -> list[str]:
    progress = RunView(round=30, accuracy={0: 0.41, 30: after}, questions=200, usd_total=1.5)
    for event in (*events, {"event": "stop", "reason": "done"}):
        progress.apply(event)
    node = Node(files_of("n"), -1, resumes=False, created=True, starts_over=False)
    return conclusion(node, resolved, progress, 60.0, failed=False, first=True)


def rollouts(source: str, number: int) -> dict[str, Any]:
    return {"event": "rollouts", "round": 1, "source": source, "count": number}


LEARNED = {"event": "step", "step": 1, "source": "teacher", "rows": 5}
DOWN = {
    "event": "warning",
    "code": "provider_down",
    "provider": "groq",
    "message": "groq does not accept the key (HTTP 401); falling back to this machine",
    "fallback": "local",
}


def test_a_run_without_any_answer_says_so_and_why(resolved: Resolved) -> None:
    told = lines(resolved, 0.6, rollouts("policy", 960), DOWN)
    at = told.index(
        "In this run, the API generated no completion; this machine generated all 960. "
        "groq does not accept the key (HTTP 401)."
    )
    assert told[at + 1] == "Check the provider:"
    assert told[at + 2].endswith("doctor api --node n")
    assert not any("per point" in line for line in told), "the API taught nothing"


def test_a_run_whose_completions_had_no_usable_text_says_so(resolved: Resolved) -> None:
    spend = {"event": "spend", "round": 29, "provider": "groq", "model": "m", "requests": 12, "usd": 0.01, "lost": 8}
    told = lines(resolved, 0.6, spend)
    at = told.index("In this run, no completion from the API was usable.")
    assert told[at + 2].endswith("doctor api --node n")
    assert not any("usable" in line for line in lines(resolved, 0.6, spend | {"lost": 0}))
    progress = RunView(round=30, tokens_per_second=0.0, round_seconds=0.4)
    progress.apply(spend)
    assert round_done([], progress) == "Round 30: no usable completion from the API, 0.4 s, 0.01 USD."


def test_a_reason_with_a_semicolon_is_shown_whole(resolved: Resolved) -> None:
    reason = "groq: useless answers (none of its last 82 completions taught this node anything; most are wrong)"
    down = DOWN | {"message": f"{reason}; falling back to this machine for the rest of this run"}
    told = lines(resolved, 0.6, rollouts("policy", 960), down)
    assert f"In this run, the API generated no completion; this machine generated all 960. {reason}." in told


def test_the_share_of_each_source_is_shown(resolved: Resolved) -> None:
    told = lines(resolved, 0.6, rollouts("policy", 25), rollouts("teacher", 75), LEARNED)
    assert "In this run, the API generated 75 % of the verified completions, this machine 25 %." in told
    assert "Spent over all runs: 1.50 USD: 0.079 USD per point of accuracy gained." in told
    told = lines(resolved, 0.6, rollouts("teacher", 75))
    assert "In this run, the API generated 100 % of the verified completions." in told


def test_an_outage_that_is_over_is_not_told_as_the_reason_of_the_end(resolved: Resolved) -> None:
    back = {"event": "warning", "code": "provider_back", "provider": "groq", "message": "groq is available again"}
    share = "In this run, the API generated 50 % of the verified completions, this machine 50 %."
    made = (rollouts("policy", 48), rollouts("teacher", 48) | {"correct": 9}, LEARNED)
    told = lines(resolved, 0.6, *made, DOWN, back)
    assert f"{share} It was unavailable for a while: groq does not accept the key (HTTP 401)." in told
    assert f"{share} groq does not accept the key (HTTP 401)." in lines(resolved, 0.6, *made, DOWN, back, DOWN)
    cap = {"event": "warning", "code": "limit", "message": "the cap is reached; paid providers are not used"}
    assert f"{share} the cap is reached." in lines(resolved, 0.6, *made, cap)


def test_completions_of_an_api_that_were_of_no_use_are_told(resolved: Resolved) -> None:
    wrong = rollouts("teacher", 48)
    right = wrong | {"correct": 9}
    none = "None of the API's completions was correct, and the node learned nothing from them. To read some:"
    told = lines(resolved, 0.6, wrong)
    assert told[told.index(none) + 1].endswith("swarmctl rollouts show --node n --source groq")
    # Rewards also teach from wrong completions.
    assert "None of the API's completions was correct. To read some:" in lines(resolved, 0.6, wrong, LEARNED)
    assert "The node learned nothing from the API's completions." in lines(resolved, 0.6, right)
    useful = "\n".join(lines(resolved, 0.6, right, LEARNED))
    assert "None of the API's" not in useful
    assert "learned nothing" not in useful


def test_hints_are_counted_by_what_they_taught(home: Path) -> None:
    chosen = [("--offload", "offload.provider", "groq"), ("--set", "offload.teach", "hints")]
    resolved = resolve(profiles.read(profiles.find("cpu")), [given(*each) for each in chosen], {})
    hints = {"event": "hints", "round": 1, "hints": 12, "refused": 2, "solved": 8, "taught": 7}
    hinted = {"event": "step", "step": 1, "source": "hinted", "rows": 9}
    told = lines(resolved, 0.6, rollouts("policy", 96), rollouts("hinted", 96), hints, hinted)
    assert "The API wrote 12 hints. With them, the node learned from 7 questions." in told
    assert "Spent over all runs: 1.50 USD: 0.079 USD per point of accuracy gained." in told
    assert "The API wrote no hint: no question had only wrong answers." in lines(resolved, 0.6, rollouts("policy", 96))
    assert any("groq does not accept the key" in line for line in lines(resolved, 0.6, rollouts("policy", 9), DOWN))


def test_a_teacher_that_scores_has_a_price_per_point(resolved: Resolved) -> None:
    offload = resolved.config.offload.model_copy(update={"teach": "distillation"})
    distilled = replace(resolved, config=resolved.config.model_copy(update={"offload": offload}))
    scores = {"event": "scores", "round": 1, "scored": 800, "unscored": 160}
    told = lines(distilled, 0.6, rollouts("policy", 960), scores)
    assert "The API scored 800 of this machine's 960 completions." in told
    assert "Spent over all runs: 1.50 USD: 0.079 USD per point of accuracy gained." in told
    told = lines(distilled, 0.6, rollouts("policy", 960), scores | {"scored": 0}, DOWN)
    at = told.index("The API scored 0 of this machine's 960 completions. groq does not accept the key (HTTP 401).")
    assert told[at + 1] == "Check the provider:"


def test_the_grades_and_the_reason_for_missing_ones_are_shown_apart_from_the_generator(resolved: Resolved) -> None:
    judge = resolved.config.judge.model_copy(update={"provider": "groq"})
    both = replace(resolved, config=resolved.config.model_copy(update={"judge": judge}))
    graded = {"event": "judge", "round": 1, "graded": 40, "ungraded": 8}
    down = DOWN | {"judge": True, "message": "the judge groq: HTTP 503; waiting until groq is available again"}
    told = lines(both, 0.6, rollouts("policy", 48), rollouts("teacher", 48), graded, graded, down)
    assert "In this run, the API generated 50 % of the verified completions, this machine 50 %." in told
    assert "The judge graded 80 of this machine's 96 completions. the judge groq: HTTP 503." in told
    alone = both.config.model_copy(update={"offload": type(both.config.offload)()})
    told = lines(replace(both, config=alone), 0.6, rollouts("policy", 48), graded | {"graded": 0})
    at = told.index("The judge graded 0 of this machine's 8 completions.")
    assert told[at + 1] == "Check the provider:"
    assert not [line for line in told if line.startswith("The API")]


def test_a_served_policy_is_not_called_this_machine(resolved: Resolved) -> None:
    offload = resolved.config.offload.model_copy(update={"kind": "policy"})
    served = replace(resolved, config=resolved.config.model_copy(update={"offload": offload}))
    assert not [line for line in lines(served, 0.6, rollouts("policy", 96)) if "generated" in line]
    told = lines(served, 0.6, rollouts("policy", 96), DOWN)
    at = told.index(
        "While the server was unavailable, this machine generated. groq does not accept the key (HTTP 401)."
    )
    assert told[at + 1] == "Check the provider:"


@pytest.mark.parametrize("after", [0.45, 0.27])
def test_a_gain_within_chance_has_no_price(resolved: Resolved, after: float) -> None:
    told = lines(resolved, after, rollouts("teacher", 75), LEARNED)
    assert "Spent over all runs: 1.50 USD." in told
    fell = "warning: accuracy fell by more than chance would explain (41 % (34–48) → 27 % (21–34)). "
    assert any(line.startswith(fell) for line in told) == (after < 0.41)


def test_only_a_finished_demonstration_says_what_it_shows_and_files_are_named_once(home: Path) -> None:
    demo = resolve(profiles.read(profiles.find("demo")), [], {})
    node = Node(files_of("demo"), -1, resumes=False, created=True, starts_over=False)
    for reason, shows in (("done", True), ("signal", False), ("error", False)):
        progress = RunView(round=30, accuracy={0: 0.41, 30: 0.8}, questions=200)
        progress.apply({"event": "stop", "reason": reason, "round": 30})
        told = conclusion(node, demo, progress, 60.0, failed=reason == "error", first=True)
        assert any(line.startswith("What this shows") for line in told) is shows
        assert not any("Files:" in line for line in told)
        again = conclusion(node, demo, progress, 60.0, failed=reason == "error", first=False)
        real = [any(line.startswith("Next, train a real language model") for line in said) for said in (told, again)]
        assert real == [shows, False], "once"
    assert any("Files: " in line for line in introduction(node, demo))


def test_which_completions_are_deleted_is_said_once(home: Path) -> None:
    endless = resolve(profiles.read(profiles.find("gpu")), [], {})
    assert endless.config.journal.keep_rounds
    for resumes in (False, True):
        node = Node(files_of("gpu"), -1, resumes=resumes, created=not resumes, starts_over=False)
        said = any("(journal.keep_rounds)" in line for line in introduction(node, endless))
        assert said is not resumes


@pytest.mark.parametrize(
    ("reason", "checkpoint", "shows"), [("done", "30", True), ("done", None, False), ("signal", "30", False)]
)
def test_a_finished_node_shows_how_to_compare_its_answers(
    home: Path, reason: str, checkpoint: str | None, shows: bool
) -> None:
    smol = resolve(profiles.read(profiles.find("smol")), [], {})
    offload = OffloadConfig(kind="relay", provider="groq")
    relay = replace(smol, config=smol.config.model_copy(update={"offload": offload}))
    progress = RunView(round=60)
    progress.apply({"event": "stop", "reason": reason, "round": 60, "checkpoint": checkpoint})
    told = next_steps(smol, progress, rounds=60, first=True)
    assert any(line.endswith("swarmctl sample smol") for line in told) is shows
    assert not any("sample" in line for line in next_steps(relay, progress, rounds=60, first=True)), "it has no model"


def test_a_run_names_the_settings_that_differ_from_its_profile(home: Path) -> None:
    overrides = [
        given("--node", "node.name", "n"),
        given("--rounds", "game.rounds", "3"),
        given("--join", "swarm.join", f"swarm1:{'ab' * 32}"),
    ]
    changed = resolve(profiles.read(profiles.find("demo")), overrides, {})
    node = Node(files_of("n"), -1, resumes=False, created=True, starts_over=False)
    assert introduction(node, changed)[1] == "Settings: built-in demo, game.rounds = 3 (--rounds)"


@pytest.mark.usefixtures("home")
def test_a_preset_of_tasks_is_explained() -> None:
    node = Node(files_of("n"), -1, resumes=False, created=True, starts_over=False)
    default, demo = (resolve(profiles.read(profiles.find(name)), [], {}) for name in ("default", "demo"))
    assert "Task sapo: Nine reasoning tasks in equal shares, as in arXiv 2509.08721." in introduction(node, default)
    assert not any(line.startswith("Task ") for line in introduction(node, demo))

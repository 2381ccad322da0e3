"""Groups are filled slot by slot. Slots that an earlier run filled are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import StageRun
from hivemind_exp.models.tiny import build_model, build_tokenizer
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Prompt, encode_completion
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.group_filler import GroupFiller
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from tests.support.nodes import Events, make_config
from tests.support.spelling_task import Spelling


@pytest.fixture
def config() -> Config:
    return make_config(game={"groups": 2, "group_size": 4}, generation={"max_completion_tokens": 12})


FIRST = StageRun(0, "answer")


def make_filler(config: Config, journal: Journal) -> GroupFiller:
    tokenizer = build_tokenizer()
    local = LocalSource(build_model(tokenizer, 0), tokenizer, config.generation, StopFlag(), config.node.seed)
    return GroupFiller(
        config,
        {"local": local},
        journal,
        encode=lambda text, truncated: encode_completion(tokenizer, text, truncated),
        verify=list,
        emit=Events(),
    )


def request(prompt: Prompt) -> CompletionRequest:
    return CompletionRequest(0, "answer", prompt.question.digest, prompt.messages, tuple(range(4)), version=0)


def completion(place: int, text: str) -> Completion:
    return Completion(place, Kind.TEACHER, "box", "m", text, truncated=False, version=0, usd=0.0)


def test_slots_filled_by_an_api_are_kept_and_this_machine_fills_the_rest(tmp_path: Path, config: Config) -> None:
    journal = Journal(tmp_path / "j", "s")
    prompts = build_prompts(Spelling().questions("train", 0, 2), build_tokenizer())
    order = request(prompts[0])
    journal.write_completions(order, [completion(0, "<answer>ab</answer>"), completion(2, "x" * 40)])
    journal.write_lost(order, [3], "nothing usable")
    first, second = make_filler(config, journal).fill(FIRST, prompts)
    # Slot 2 has more tokens under this node's tokenizer than a completion may have, and slot 3 was given up.
    assert first.places == (0, 1)
    assert [rollout.kind for rollout in first.rollouts] == [Kind.TEACHER, Kind.POLICY]
    assert second.places == (0, 1, 2, 3)
    again = make_filler(config, journal).fill(FIRST, prompts)
    assert again == [first, second]


def test_filling_a_round_is_reproducible(tmp_path: Path, config: Config) -> None:
    prompts = build_prompts(Spelling().questions("train", 0, 1), build_tokenizer())
    whole = make_filler(config, Journal(tmp_path / "a", "s")).fill(FIRST, prompts)
    again = make_filler(config, Journal(tmp_path / "b", "s")).fill(FIRST, prompts)
    assert whole == again


def test_an_apis_text_is_encoded_with_this_nodes_tokenizer(tmp_path: Path, config: Config) -> None:
    journal, tokenizer = Journal(tmp_path / "j", "s"), build_tokenizer()
    (prompt,) = build_prompts(Spelling().questions("train", 0, 1), tokenizer)
    journal.write_completions(request(prompt), [completion(place, f"<answer>{place}</answer>") for place in range(4)])
    filler = make_filler(config, journal)
    filler.weights_moved(3)
    (group,) = filler.fill(FIRST, [prompt])
    for rollout in group.rollouts:
        assert tokenizer.decode(rollout.ids[:-1]) == rollout.text
        assert rollout.ids[-1] == tokenizer.eos_token_id
        assert (rollout.lag, rollout.model) == (3, "m")


def test_a_teachers_text_is_put_into_the_nodes_style(tmp_path: Path, config: Config) -> None:
    journal, tokenizer = Journal(tmp_path / "j", "s"), build_tokenizer()
    (prompt,) = build_prompts(Spelling().questions("train", 0, 1), tokenizer)
    texts = ["<think>no</think><answer>ab</answer>", "The answer is **cd**.", "ef", "so \\boxed{gh}"]
    cut = Completion(4, Kind.TEACHER, "box", "m", "so it is", truncated=True, version=0, usd=0.0)
    done = [completion(place, text) for place, text in enumerate(texts)]
    journal.write_completions(replace(request(prompt), indices=tuple(range(5))), [*done, cut])
    filler = make_filler(config.model_copy(update={"game": config.game.model_copy(update={"group_size": 5})}), journal)
    filler.style = PromptStyle("plain")
    (group,) = filler.fill(FIRST, [prompt])
    assert [rollout.text for rollout in group.rollouts] == ["ab", "cd", "ef", "gh", "so it is"]
    filler.style = PromptStyle("boxed")
    (group,) = filler.fill(FIRST, [prompt])
    # Reasoning and box together are too long.
    assert [rollout.text for rollout in group.rollouts][:4] == [
        f"\\boxed{{{each}}}" for each in ("ab", "cd", "ef", "gh")
    ]


def test_a_teachers_text_for_a_stage_without_tags_is_learned_as_it_is(tmp_path: Path, config: Config) -> None:
    journal = Journal(tmp_path / "j", "s")
    (prompt,) = build_prompts(Spelling().questions("train", 0, 1), build_tokenizer())
    journal.write_completions(
        replace(request(prompt), stage="praise"), [completion(place, text) for place, text in enumerate("abcd")]
    )
    (group,) = make_filler(config, journal).fill(replace(FIRST, stage="praise"), [replace(prompt, stage="praise")])
    assert [rollout.text for rollout in group.rollouts] == ["a", "b", "c", "d"]


def test_a_teachers_answer_that_the_style_cannot_hold_is_left_out(tmp_path: Path, config: Config) -> None:
    journal = Journal(tmp_path / "j", "s")
    (prompt,) = build_prompts(Spelling().questions("train", 0, 1), build_tokenizer())
    texts = ["<answer>}{</answer>", "", "ab", "cd"]
    journal.write_completions(request(prompt), [completion(place, text) for place, text in enumerate(texts)])
    roomy = config.generation.model_copy(update={"max_completion_tokens": 40})
    filler = make_filler(config.model_copy(update={"generation": roomy}), journal)
    filler.style = PromptStyle("boxed")
    (group,) = filler.fill(FIRST, [prompt])
    assert {place: row.text for place, row in group.numbered().items()} == {1: "", 2: "\\boxed{ab}", 3: "\\boxed{cd}"}
    (said,) = [event["message"] for event in filler.emit.of("warning")]  # type: ignore[attr-defined]
    assert "whose answers cannot be written in the prompt style boxed" in said


def test_a_teachers_text_is_cut_to_its_tags_and_to_what_fits(tmp_path: Path, config: Config) -> None:
    journal, tokenizer = Journal(tmp_path / "j", "s"), build_tokenizer()
    (prompt,) = build_prompts(Spelling().questions("train", 0, 1), tokenizer)
    texts = [
        "Sure! <answer>ab</answer> Bye.",
        "no</think><answer>cd</answer>",
        f"<think>{'a' * 30}</think><answer>ef</answer>",
    ]
    journal.write_completions(request(prompt), [completion(place, text) for place, text in enumerate([*texts, "gh"])])
    filler = make_filler(config, journal)
    (group,) = filler.fill(FIRST, [prompt])
    learned = {place: rollout.text for place, rollout in group.numbered().items()}
    assert learned == {
        0: "<answer>ab</answer>",
        1: "<think>no</think>\n<answer>cd</answer>",
        2: "<answer>ef</answer>",
        3: "<answer>gh</answer>",
    }
    for rollout in group.rollouts:
        assert rollout.ids == encode_completion(tokenizer, rollout.text, False)
        assert len(rollout.ids) <= config.generation.max_completion_tokens
    (said,) = [event["message"] for event in filler.emit.of("warning")]  # type: ignore[attr-defined]
    assert said.startswith("some completions from ")
    assert "learns their answers without the reasoning" in said
    assert "raise generation.max_completion_tokens" in said


def test_a_teachers_answer_that_is_too_long_without_reasoning_is_not_called_learned(
    tmp_path: Path, config: Config
) -> None:
    journal, tokenizer = Journal(tmp_path / "j", "s"), build_tokenizer()
    (prompt,) = build_prompts(Spelling().questions("train", 0, 1), tokenizer)
    text = f"<think>a</think><answer>{'b' * 60}</answer>"
    journal.write_completions(request(prompt), [completion(0, text)])
    filler = make_filler(config, journal)
    filler.fill(FIRST, [prompt])
    (said,) = [event["message"] for event in filler.emit.of("warning")]  # type: ignore[attr-defined]
    assert said.startswith("skipping completions from ")
    assert said.endswith("even without their reasoning. To use them, raise generation.max_completion_tokens")

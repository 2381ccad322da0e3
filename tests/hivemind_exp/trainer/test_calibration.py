"""Calibration finds the style that a model follows, with a model whose behavior in each style is scripted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from hivemind_exp.game.prompt_style import TAGS_STYLE, ChatBuilder, PromptStyle
from hivemind_exp.rollouts.types import Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score, Split
from hivemind_exp.tasks.verifiers.reader import read, reference_of
from hivemind_exp.trainer.calibration import (
    ACCELERATOR_TOKENS,
    CPU_TOKENS,
    EXAMPLES,
    LEAST_TOKENS,
    Calibration,
    affordable,
    candidates,
)

ALL = candidates(TAGS_STYLE, system=None, switch=False)


@dataclass
class Sums:
    """Two tasks in turn. The hard one has the odd questions."""

    first: int = 0
    """Shifts the numbers in all questions."""

    def questions(self, split: Split, round: int, count: int) -> list[Question]:  # noqa: ARG002
        return [self._question(1000 * round + place, place) for place in range(count)]

    def examples(self, count: int) -> dict[str, list[Question]]:
        return {
            task: [self._question(place, hard) for place in range(count)] for hard, task in enumerate(("easy", "hard"))
        }

    def conversing(self) -> list[str]:
        return []

    def set_aside(self, questions: Sequence[Question]) -> None:
        pass

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        found = [
            read(text, reference_of(question.entry)) for question, text in zip(questions, completions, strict=True)
        ]
        return [
            Score(float(reading is not None and reading.answer == question.entry["answer"]), True, "compared")
            for question, reading in zip(questions, found, strict=True)
        ]

    def close(self) -> None:
        pass

    def _question(self, number: int, place: int) -> Question:
        number += 1000 * self.first
        task, text = ("easy", "hard")[place % 2], f"What is {number} + 1?"
        return Question(task, "train", 0, place, text, {"answer": str(number + 1)}, text, text)


@dataclass
class Scripted:
    """A model: how often it is right, readable and done in each style, and how long its completions are."""

    right: Callable[[PromptStyle, str], float]
    readable: Callable[[PromptStyle], bool] = lambda _: True
    length: Callable[[PromptStyle], int] = lambda _: 5
    prompt: Callable[[PromptStyle], int] = lambda style: 20 + 10 * style.examples
    """Length of a prompt, in tokens."""
    longest_prompt: int = 1000
    """Longer prompts have no completion."""
    calls: list[tuple[list[PromptStyle], int, int | None]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def __call__(
        self, asked: Sequence[tuple[ChatBuilder, Question]], *, longest: int, seed: int | None
    ) -> list[tuple[Rollout | None, int]]:
        self.calls.append(([chats.style for chats, _ in asked], longest, seed))
        self.seen.update(question.key for _, question in asked)
        lengths = [self.prompt(chats.style) for chats, _ in asked]
        return [
            (self._say(chats.style, question, place, longest) if length <= self.longest_prompt else None, length)
            for place, ((chats, question), length) in enumerate(zip(asked, lengths, strict=True))
        ]

    def _say(self, style: PromptStyle, question: Question, place: int, longest: int) -> Rollout:
        drawn = random.Random(f"{style} {question.text} {place}").random()
        answer = question.entry["answer"] if drawn < self.right(style, question.task) else "-5"
        text = f"The answer is {answer}." if self.readable(style) else "7 or 8"
        length = self.length(style)
        return Rollout(Kind.POLICY, "local", text, (7,) * min(length, longest), truncated=length > longest)


def calibrate(
    model: Scripted, styles: Sequence[PromptStyle] = ALL, *, first: int = 0, **changes: int
) -> tuple[Calibration, list[ChatBuilder]]:
    settings = {"longest": 32, "group_size": 4, "budget": 6000, "seed": 1, **changes}
    examples = Sums(first).examples(8)
    return Calibration(model, Sums(first), **settings), [ChatBuilder(style, examples) for style in styles]


@pytest.mark.parametrize(
    "best",
    [
        PromptStyle(),
        PromptStyle("plain", 0, system=False),
        PromptStyle("answer-tag", 3, system=True),
        PromptStyle("boxed", 1, system=False),
    ],
)
def test_the_style_that_the_model_follows_is_found(best: PromptStyle) -> None:
    def right(style: PromptStyle, _task: str) -> float:
        like = (style.form, style.system) == (best.form, best.system)
        return 0.9 if style == best else 0.05 + 0.25 * like

    model = Scripted(right)
    calibration, chats = calibrate(model)
    found = calibration.run(chats, EXAMPLES)
    assert found.chats.style == best
    assert found.tried == 10
    assert found.greedy.share(found.greedy.right) > 0.6
    assert found.earned


@pytest.mark.slow
@pytest.mark.parametrize("budget", [CPU_TOKENS, ACCELERATOR_TOKENS])
def test_a_style_that_is_rarely_right_is_told_from_one_that_almost_never_is(budget: int) -> None:
    def right(style: PromptStyle, task: str) -> float:
        return 0.2 if (style.form, style.examples) == ("plain", 0) else 0.02 + 0.01 * (task == "easy")

    forms = []
    for first in range(20):  # other questions, and so other answers
        calibration, chats = calibrate(Scripted(right), budget=budget, first=first)
        forms.append(calibration.run(chats, EXAMPLES).chats.style.form)
        assert calibration._cost < 1.2 * budget
    assert forms.count("plain") >= 19


def test_thinking_is_tried_where_the_template_has_a_switch() -> None:
    styles = candidates(TAGS_STYLE, system=None, switch=True)
    best = PromptStyle("boxed", 0, system=False, thinking=True)
    calibration, chats = calibrate(Scripted(right=lambda style, _: float(style == best)), styles)
    assert calibration.run(chats, EXAMPLES).chats.style == best


def test_equally_good_styles_are_told_apart_by_what_can_be_read_then_by_what_ends_then_by_the_prompt() -> None:
    def never(_style: PromptStyle, _task: str) -> float:
        return 0.0

    calibration, chats = calibrate(Scripted(never, readable=lambda style: style.form == "boxed"))
    assert calibration.run(chats, EXAMPLES).chats.style == PromptStyle("boxed", 0, system=True)
    calibration, chats = calibrate(Scripted(never, length=lambda style: 5 if style.form == "plain" else 99))
    assert calibration.run(chats, EXAMPLES).chats.style == PromptStyle("plain", 0, system=True)


def test_a_style_that_is_set_is_measured_but_nothing_else_is_tried() -> None:
    model = Scripted(right=lambda *_: 1.0)
    calibration, chats = calibrate(model, [TAGS_STYLE])
    found = calibration.run(chats, EXAMPLES)
    assert found.tried == 1
    assert {style for styles, _, _ in model.calls for style in styles} == {TAGS_STYLE}
    assert [seed for _, _, seed in model.calls] == [None, 1]
    assert {longest for _, longest, _ in model.calls} == {32}
    assert found.sampled.asked == found.samples * found.greedy.asked == 4 * found.greedy.asked


def test_the_effort_is_bounded_even_if_no_completion_ends() -> None:
    model = Scripted(right=lambda *_: 0.0, length=lambda _: 10_000)
    calibration, chats = calibrate(model, longest=512)
    found = calibration.run(chats, EXAMPLES)
    longest = [longest for _, longest, _ in model.calls]
    assert longest[0] < 512 == longest[-1]
    searched = sum(len(styles) * most for (styles, _, _), most in zip(model.calls, longest, strict=True) if most < 512)
    assert searched <= 6000
    assert found.sampled.asked == 4  # two questions, two completions each
    assert calibration._cost < 1.2 * 6000
    assert found.greedy.ended == 0


def test_nothing_earned_is_known() -> None:
    calibration, chats = calibrate(Scripted(right=lambda *_: 0.0))
    found = calibration.run(chats, EXAMPLES)
    assert not found.earned
    assert {signal.differing for signal in found.tasks.values()} == {0.0}


def test_the_signal_of_each_task_is_measured() -> None:
    calibration, chats = calibrate(
        Scripted(right=lambda _, task: 1.0 if task == "easy" else 0.5), [PromptStyle("plain")], budget=60_000
    )
    found = calibration.run(chats, EXAMPLES)
    assert found.tasks["easy"] == replace(found.tasks["easy"], questions=16, right=1.0, sampled=1.0, differing=0.0)
    assert found.tasks["hard"].questions == 16
    assert found.tasks["hard"].differing > 0.5


def test_shown_questions_are_not_asked() -> None:
    model = Scripted(right=lambda *_: 0.5)
    calibration, chats = calibrate(model)
    shown = calibration.tasks.questions("train", -2, 3)
    chats = [replace(each, shown={"easy": shown}) for each in chats]
    calibration.run(chats, EXAMPLES)
    assert model.seen
    assert not model.seen & {each.key for each in shown}


def test_the_same_node_finds_the_same_again() -> None:
    def found() -> object:
        calibration, chats = calibrate(Scripted(right=lambda style, _: 0.3 + 0.1 * style.examples))
        return calibration.run(chats, EXAMPLES)

    assert found() == found()


def test_a_model_that_needs_examples_gets_them() -> None:
    model = Scripted(right=lambda style, _: 0.9 * (style.examples == 3), readable=lambda style: style.examples > 0)
    calibration, chats = calibrate(model)
    assert calibration.run(chats, EXAMPLES).chats.style.examples == 3


def test_settings_leave_out_what_they_decide() -> None:
    assert len(ALL) == len(set(ALL)) == 8
    assert {(style.thinking, style.examples) for style in ALL} == {(None, 0)}
    two = candidates(PromptStyle(examples=2), system=False, switch=True)
    assert {(style.examples, style.system) for style in two} == {(2, False)}
    assert {style.thinking for style in two} == {True, False}
    assert len(two) == 8
    kept = candidates(PromptStyle(thinking=True), system=None, switch=False)
    assert {style.thinking for style in kept} == {True}


@pytest.mark.slow
def test_sampled_answers_choose_a_style_if_no_greedy_one_is_right() -> None:
    best = PromptStyle("plain", 1, system=False)
    model = Scripted(right=lambda *_: 0.0, readable=lambda style: style.form == "tags")
    calibration, chats = calibrate(model, budget=ACCELERATOR_TOKENS)
    assert calibration.run(chats, EXAMPLES).chats.style.form == "tags"

    class Unsure(Scripted):
        def __call__(
            self, asked: Sequence[tuple[ChatBuilder, Question]], *, longest: int, seed: int | None
        ) -> list[tuple[Rollout | None, int]]:
            self.right = lambda style, _: 0.05 if seed is not None and (style.form, style.examples) == best_of else 0.0
            return super().__call__(asked, longest=longest, seed=seed)

    best_of = (best.form, best.examples)
    calibration, chats = calibrate(Unsure(right=lambda *_: 0.0), budget=ACCELERATOR_TOKENS)
    found = calibration.run(chats, EXAMPLES)
    assert (found.chats.style.form, found.chats.style.examples) == best_of
    assert found.earned
    assert calibration._cost < 1.2 * ACCELERATOR_TOKENS


def test_long_prompts_leave_tokens_for_sampled_answers_which_choose_the_most_readable_style() -> None:
    class ReadableIfGreedy(Scripted):
        """Never right. Sampled answers are readable only in boxes after one example; greedy ones without examples."""

        def __call__(
            self, asked: Sequence[tuple[ChatBuilder, Question]], *, longest: int, seed: int | None
        ) -> list[tuple[Rollout | None, int]]:
            self.readable = lambda style: style == boxed if seed is not None else style.examples == 0
            return super().__call__(asked, longest=longest, seed=seed)

    boxed = PromptStyle("boxed", 1)
    model = ReadableIfGreedy(lambda *_: 0.0, prompt=lambda style: 240 * (1 + style.examples), longest_prompt=512)
    calibration, chats = calibrate(model, budget=ACCELERATOR_TOKENS)
    found = calibration.run(chats, EXAMPLES)
    assert found.chats.style == boxed
    assert found.too_long == 3  # three forms with three examples
    sampled = [style for styles, _, seed in model.calls[:-1] if seed is not None for style in styles]
    assert sampled.count(boxed) >= 16
    assert not [style for style in sampled if style.examples == 3]
    assert calibration._cost < 1.2 * ACCELERATOR_TOKENS


@pytest.mark.parametrize(
    ("parameters", "on_cpu", "tokens"),
    [
        (135_000_000, True, CPU_TOKENS),
        (300_000_000, True, CPU_TOKENS // 2),
        (7_000_000_000, True, LEAST_TOKENS),
        (494_000_000, False, ACCELERATOR_TOKENS),
        (3_000_000_000, False, ACCELERATOR_TOKENS // 2),
    ],
)
def test_larger_models_may_generate_fewer_tokens(parameters: int, on_cpu: bool, tokens: int) -> None:
    assert affordable(parameters, on_cpu=on_cpu) == tokens
